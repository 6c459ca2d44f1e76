#include <pybind11/stl.h>

#include <stdexcept>

#include "common/bindings.h"
#include "sgd/sgd.h"

namespace fastmodel {
namespace {

SgdGroup checked_group(std::shared_ptr<TensorTable> tensors, std::vector<bool> are_first, double lr,
                       double momentum, double dampening, double weight_decay, bool is_nesterov,
                       double grad_unscale, double grad_factor) {
  const bool has_momentum = momentum != 0.0;
  if (tensors->columns.size() != (has_momentum ? 3 : 2) ||
      are_first.size() != (has_momentum ? tensors->sizes.size() : 0)) {
    throw std::invalid_argument("sgd: expected columns p, g and, with momentum, b");
  }
  if (tensors->state_dtype != tensors->dtype) {
    throw std::invalid_argument("sgd: b is of the parameters' dtype");
  }
  return {std::move(tensors), std::move(are_first), lr,           momentum,   dampening,
          weight_decay,       is_nesterov,          grad_unscale, grad_factor};
}

}  // namespace

void bind_sgd(py::module_& module) {
  py::class_<SgdGroup>(module, "SgdGroup")
      .def(py::init(&checked_group), py::arg("tensors"), py::kw_only(), py::arg("are_first"),
           py::arg("lr"), py::arg("momentum"), py::arg("dampening"), py::arg("weight_decay"),
           py::arg("is_nesterov"), py::arg("grad_unscale"), py::arg("grad_factor"));
  module.def(
      "sgd_step_cpu",
      [](const std::vector<SgdGroup>& groups, int threads) { sgd_step_cpu({groups, threads}); },
      ReleaseGil());
}

}  // namespace fastmodel
