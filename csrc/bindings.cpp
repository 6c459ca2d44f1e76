// The extension module fastmodel._C: one bind_<op>(module) call an op.
#include <pybind11/pybind11.h>

#include "common/capability.h"

namespace fastmodel {
void bind_adam(pybind11::module_& module);
void bind_add_layer_norm(pybind11::module_& module);
void bind_add_rms_norm(pybind11::module_& module);
void bind_batch_norm_relu(pybind11::module_& module);
void bind_ceilings(pybind11::module_& module);
void bind_conv_relu(pybind11::module_& module);
void bind_conv_relu_maxpool(pybind11::module_& module);
void bind_cross_entropy(pybind11::module_& module);
void bind_geglu(pybind11::module_& module);
void bind_geglu_tanh(pybind11::module_& module);
void bind_grad_norm(pybind11::module_& module);
void bind_layer_norm(pybind11::module_& module);
void bind_linear(pybind11::module_& module);
void bind_linear_gelu(pybind11::module_& module);
void bind_linear_relu(pybind11::module_& module);
void bind_linear_relu_dropout(pybind11::module_& module);
void bind_linear_sigmoid(pybind11::module_& module);
void bind_linear_silu(pybind11::module_& module);
void bind_linear_tanh(pybind11::module_& module);
void bind_mse_loss(pybind11::module_& module);
void bind_rms_norm(pybind11::module_& module);
void bind_rope(pybind11::module_& module);
void bind_rope_interleaved(pybind11::module_& module);
void bind_sgd(pybind11::module_& module);
void bind_swiglu(pybind11::module_& module);
void bind_tensor_table(pybind11::module_& module);
void bind_transpose(pybind11::module_& module);
#if defined(FASTMODEL_SANITIZE)
void bind_planted(pybind11::module_& module);
#endif
}  // namespace fastmodel

PYBIND11_MODULE(_C, module) {
  module.def("cpu_capability",
             [] { return fastmodel::capability_name(fastmodel::cpu_capability()); });
  fastmodel::bind_tensor_table(module);
  fastmodel::bind_adam(module);
  fastmodel::bind_add_layer_norm(module);
  fastmodel::bind_add_rms_norm(module);
  fastmodel::bind_batch_norm_relu(module);
  fastmodel::bind_ceilings(module);
  fastmodel::bind_conv_relu(module);
  fastmodel::bind_conv_relu_maxpool(module);
  fastmodel::bind_cross_entropy(module);
  fastmodel::bind_geglu(module);
  fastmodel::bind_geglu_tanh(module);
  fastmodel::bind_grad_norm(module);
  fastmodel::bind_layer_norm(module);
  fastmodel::bind_linear(module);
  fastmodel::bind_linear_gelu(module);
  fastmodel::bind_linear_relu(module);
  fastmodel::bind_linear_relu_dropout(module);
  fastmodel::bind_linear_sigmoid(module);
  fastmodel::bind_linear_silu(module);
  fastmodel::bind_linear_tanh(module);
  fastmodel::bind_mse_loss(module);
  fastmodel::bind_rms_norm(module);
  fastmodel::bind_rope(module);
  fastmodel::bind_rope_interleaved(module);
  fastmodel::bind_sgd(module);
  fastmodel::bind_swiglu(module);
  fastmodel::bind_transpose(module);
#if defined(FASTMODEL_SANITIZE)
  fastmodel::bind_planted(module);
#endif
}
