#include "common/bindings.h"
#include "linear/linear.h"

namespace fastmodel {

void bind_linear(py::module_& module) {
  module.def(
      "linear_forward_cpu",
      [](uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t out, int64_t rows,
         int64_t in_features, int64_t out_features, int dtype, int threads) {
        linear_forward_cpu({pointer<void>(x), pointer<void>(weight), pointer<void>(bias),
                            pointer<void>(out), rows, in_features, out_features,
                            static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
  module.def(
      "linear_backward_cpu",
      [](uintptr_t grad, uintptr_t x, uintptr_t weight, uintptr_t grad_x, uintptr_t grad_weight,
         uintptr_t grad_bias, int64_t rows, int64_t in_features, int64_t out_features, int dtype,
         int threads) {
        linear_backward_cpu({pointer<void>(grad), pointer<void>(x), pointer<void>(weight),
                             pointer<void>(grad_x), pointer<void>(grad_weight),
                             pointer<void>(grad_bias), rows, in_features, out_features,
                             static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
}

}  // namespace fastmodel
