#include <stdexcept>

#include "adam/adam.h"
#include "common/bindings.h"

namespace fastmodel {

void bind_adam(py::module_& module) {
  module.def(
      "adam_step_cpu",
      [](const TensorTable& tensors, double lr, double beta1, double beta2, double eps,
         double weight_decay, bool is_decoupled, double grad_factor, int threads) {
        const size_t columns = tensors.columns.size();
        if ((columns != 4 && columns != 5) || tensors.steps.size() != tensors.sizes.size()) {
          throw std::invalid_argument("adam: expected columns p, g, m, v (vmax) and a step each");
        }
        adam_step_cpu(
            {tensors, lr, beta1, beta2, eps, weight_decay, grad_factor, is_decoupled, threads});
      },
      ReleaseGil());
}

}  // namespace fastmodel
