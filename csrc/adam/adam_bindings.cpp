#include <pybind11/stl.h>

#include <stdexcept>

#include "adam/adam.h"
#include "common/bindings.h"

namespace fastmodel {
namespace {

AdamGroup checked_group(std::shared_ptr<TensorTable> tensors, double lr, double beta1, double beta2,
                        double eps, double weight_decay, bool is_decoupled, double grad_unscale,
                        double grad_factor, std::optional<uint64_t> rounding_seed) {
  const size_t columns = tensors->columns.size();
  if ((columns != 4 && columns != 5) || tensors->steps.size() != tensors->sizes.size()) {
    throw std::invalid_argument("adam: expected columns p, g, m, v (vmax) and a step each");
  }
  if (tensors->state_dtype != (rounding_seed ? DType::kBFloat16 : tensors->dtype)) {
    throw std::invalid_argument("adam: moments are as the parameters, or bfloat16 with a seed");
  }
  return {std::move(tensors), lr,           beta1,        beta2,       eps,
          weight_decay,       is_decoupled, grad_unscale, grad_factor, rounding_seed};
}

}  // namespace

void bind_adam(py::module_& module) {
  py::class_<AdamGroup>(module, "AdamGroup")
      .def(py::init(&checked_group), py::arg("tensors"), py::kw_only(), py::arg("lr"),
           py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
           py::arg("is_decoupled"), py::arg("grad_unscale"), py::arg("grad_factor"),
           py::arg("rounding_seed"));
  module.def(
      "adam_step_cpu",
      [](const std::vector<AdamGroup>& groups, int threads) { adam_step_cpu({groups, threads}); },
      ReleaseGil());
}

}  // namespace fastmodel
