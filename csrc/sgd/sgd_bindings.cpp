#include <pybind11/stl.h>

#include <stdexcept>

#include "common/bindings.h"
#include "sgd/sgd.h"

namespace fastmodel {

void bind_sgd(py::module_& module) {
  module.def(
      "sgd_step_cpu",
      [](const TensorTable& tensors, const std::vector<bool>& are_first, double lr, double momentum,
         double dampening, double weight_decay, bool is_nesterov, double grad_factor, int threads) {
        const bool has_momentum = momentum != 0.0;
        if (tensors.columns.size() != (has_momentum ? 3 : 2) ||
            are_first.size() != (has_momentum ? tensors.sizes.size() : 0)) {
          throw std::invalid_argument("sgd: expected columns p, g and, with momentum, b");
        }
        sgd_step_cpu({tensors, are_first, lr, momentum, dampening, weight_decay, grad_factor,
                      is_nesterov, threads});
      },
      ReleaseGil());
}

}  // namespace fastmodel
