#include "common/bindings.h"
#include "linear_relu/linear_relu.h"

namespace fastmodel {

void bind_linear_relu(py::module_& module) {
  module.def(
      "linear_relu_forward_cpu",
      [](uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t out, int64_t rows,
         int64_t in_features, int64_t out_features, int dtype, int threads) {
        linear_relu_forward_cpu({pointer<void>(x), pointer<void>(weight), pointer<void>(bias),
                                 pointer<void>(out), rows, in_features, out_features,
                                 static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
  module.def(
      "linear_relu_backward_cpu",
      [](uintptr_t grad, uintptr_t x, uintptr_t weight, uintptr_t out, uintptr_t masked,
         uintptr_t grad_x, uintptr_t grad_weight, uintptr_t grad_bias, int64_t rows,
         int64_t in_features, int64_t out_features, float scale, int dtype, int threads) {
        linear_relu_backward_cpu({pointer<void>(grad), pointer<void>(x), pointer<void>(weight),
                                  pointer<void>(out), pointer<float>(masked), pointer<void>(grad_x),
                                  pointer<void>(grad_weight), pointer<void>(grad_bias), rows,
                                  in_features, out_features, scale, static_cast<DType>(dtype),
                                  threads});
      },
      ReleaseGil());
  module.def(
      "linear_relu_mask_cpu",
      [](uintptr_t grad, uintptr_t out, uintptr_t masked, uintptr_t grad_bias, int64_t rows,
         int64_t out_features, float scale, int dtype, int threads) {
        linear_relu_mask_cpu({pointer<void>(grad), pointer<void>(out), pointer<void>(masked),
                              pointer<void>(grad_bias), rows, out_features, scale,
                              static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
}

}  // namespace fastmodel
