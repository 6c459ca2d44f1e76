#include <pybind11/stl.h>

#include <stdexcept>

#include "adam/adam_cuda.h"
#include "common/bindings.h"

namespace fastmodel {
namespace {

void checked_step(std::shared_ptr<TensorTable> tensors, bool is_amsgrad, bool has_master,
                  std::optional<double> ema_decay, bool are_counts_on_device, double lr,
                  double beta1, double beta2, double eps, double weight_decay, bool is_decoupled,
                  bool is_maximizing, uintptr_t lr_there, uintptr_t grad_scale, uintptr_t found_inf,
                  uintptr_t clip, Stream stream) {
  const size_t columns = size_t{4} + is_amsgrad + has_master + ema_decay.has_value();
  if (tensors->columns.size() != columns || tensors->steps.size() != tensors->sizes.size()) {
    throw std::invalid_argument(
        "adam: expected columns p, g, m, v (vmax, master, average) and a step each");
  }
  if (tensors->state_dtype != tensors->dtype && tensors->state_dtype != DType::kFloat32) {
    throw std::invalid_argument("adam: moments are as the parameters, or float32");
  }
  if (has_master &&
      (tensors->state_dtype != DType::kFloat32 || tensors->dtype == DType::kFloat32)) {
    throw std::invalid_argument("adam: a master copy, and its moments, are float32 as p is not");
  }
  adam_step_cuda({std::move(tensors), is_amsgrad, has_master, ema_decay, are_counts_on_device, lr,
                  beta1, beta2, eps, weight_decay, is_decoupled, is_maximizing,
                  pointer<const float>(lr_there), pointer<const float>(grad_scale),
                  pointer<const float>(found_inf), pointer<const float>(clip)},
                 stream);
}

}  // namespace

void bind_adam_cuda(py::module_& module) {
  module.def("adam_step_cuda", &checked_step, py::arg("tensors"), py::kw_only(),
             py::arg("is_amsgrad"), py::arg("has_master"), py::arg("ema_decay"),
             py::arg("are_counts_on_device"), py::arg("lr"), py::arg("beta1"), py::arg("beta2"),
             py::arg("eps"), py::arg("weight_decay"), py::arg("is_decoupled"),
             py::arg("is_maximizing"), py::arg("lr_there"), py::arg("grad_scale"),
             py::arg("found_inf"), py::arg("clip"), py::arg("stream"), ReleaseGil());
}

}  // namespace fastmodel
