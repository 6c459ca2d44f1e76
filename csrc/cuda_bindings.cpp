// The extension modules fastmodel._cuda and fastmodel._cuda_emulated: one bind_<op>_cuda(module)
// call an op.
#include <pybind11/pybind11.h>

#include "common/cuda_stream.h"

namespace fastmodel {
void bind_adam_cuda(pybind11::module_& module);
void bind_conv_relu_cuda(pybind11::module_& module);
void bind_conv_relu_maxpool_cuda(pybind11::module_& module);
void bind_cross_entropy_cuda(pybind11::module_& module);
void bind_grad_norm_cuda(pybind11::module_& module);
void bind_linear_cuda(pybind11::module_& module);
void bind_mse_loss_cuda(pybind11::module_& module);
void bind_probe_cuda(pybind11::module_& module);
void bind_sgd_cuda(pybind11::module_& module);
}  // namespace fastmodel

PYBIND11_MODULE(FASTMODEL_CUDA_MODULE, module) {
  module.doc() = "Native kernels for NVIDIA GPUs: over addresses, sizes and a stream.";
  // Local to the module: a process may load both.
  pybind11::class_<fastmodel::Stream>(module, "Stream", pybind11::module_local())
      .def(pybind11::init<int, uintptr_t>(), pybind11::arg("device"), pybind11::arg("handle"));
  fastmodel::bind_adam_cuda(module);
  fastmodel::bind_conv_relu_cuda(module);
  fastmodel::bind_conv_relu_maxpool_cuda(module);
  fastmodel::bind_cross_entropy_cuda(module);
  fastmodel::bind_grad_norm_cuda(module);
  fastmodel::bind_linear_cuda(module);
  fastmodel::bind_mse_loss_cuda(module);
  fastmodel::bind_probe_cuda(module);
  fastmodel::bind_sgd_cuda(module);
}
