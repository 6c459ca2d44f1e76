#include <pybind11/stl.h>

#include "common/bindings.h"
#include "grad_norm/grad_norm.h"

namespace fastmodel {

void bind_grad_norm(py::module_& module) {
  module.def(
      "grad_square_sum_cpu",
      [](const std::vector<std::shared_ptr<TensorTable>>& tables, int threads) {
        double sum = 0.0;
        grad_square_sum_cpu({{tables.begin(), tables.end()}, threads, sum});
        return sum;
      },
      ReleaseGil());
}

}  // namespace fastmodel
