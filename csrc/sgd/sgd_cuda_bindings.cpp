#include <pybind11/stl.h>

#include <stdexcept>

#include "common/bindings.h"
#include "sgd/sgd_cuda.h"

namespace fastmodel {
namespace {

void checked_step(std::shared_ptr<TensorTable> tensors, bool has_master,
                  std::optional<double> ema_decay, std::vector<bool> are_first, double lr,
                  double momentum, double dampening, double weight_decay, bool is_nesterov,
                  bool is_maximizing, uintptr_t lr_there, uintptr_t grad_scale, uintptr_t found_inf,
                  uintptr_t clip, Stream stream) {
  const bool has_momentum = momentum != 0.0;
  const size_t columns = size_t{2} + has_momentum + has_master + ema_decay.has_value();
  if (tensors->columns.size() != columns ||
      are_first.size() != (has_momentum ? tensors->sizes.size() : 0)) {
    throw std::invalid_argument("sgd: expected columns p, g (b, master, average)");
  }
  if (tensors->state_dtype != tensors->dtype && tensors->state_dtype != DType::kFloat32) {
    throw std::invalid_argument("sgd: b is as the parameters, or float32");
  }
  if (has_master &&
      (tensors->state_dtype != DType::kFloat32 || tensors->dtype == DType::kFloat32)) {
    throw std::invalid_argument("sgd: a master copy, and its b, are float32 as p is not");
  }
  sgd_step_cuda({std::move(tensors), has_master, ema_decay, std::move(are_first), lr, momentum,
                 dampening, weight_decay, is_nesterov, is_maximizing,
                 pointer<const float>(lr_there), pointer<const float>(grad_scale),
                 pointer<const float>(found_inf), pointer<const float>(clip)},
                stream);
}

}  // namespace

void bind_sgd_cuda(py::module_& module) {
  module.def("sgd_step_cuda", &checked_step, py::arg("tensors"), py::kw_only(),
             py::arg("has_master"), py::arg("ema_decay"), py::arg("are_first"), py::arg("lr"),
             py::arg("momentum"), py::arg("dampening"), py::arg("weight_decay"),
             py::arg("is_nesterov"), py::arg("is_maximizing"), py::arg("lr_there"),
             py::arg("grad_scale"), py::arg("found_inf"), py::arg("clip"), py::arg("stream"),
             ReleaseGil());
}

}  // namespace fastmodel
