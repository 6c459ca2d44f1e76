#include "common/bindings.h"
#include "cross_entropy/cross_entropy_cuda.h"

namespace fastmodel {

void bind_cross_entropy_cuda(py::module_& module) {
  module.def(
      "cross_entropy_forward_cuda",
      [](uintptr_t x, uintptr_t index, uintptr_t probability, uintptr_t class_weight, int64_t rows,
         int64_t classes, int64_t ignore_index, int reduction, double label_smoothing, int dtype,
         uintptr_t loss, uintptr_t stats, uintptr_t grad_x, uintptr_t scratch, Stream stream) {
        cross_entropy_forward_cuda(
            {{pointer<void>(x), pointer<int64_t>(index), pointer<void>(probability),
              pointer<void>(class_weight), rows, classes, ignore_index,
              static_cast<Reduction>(reduction), label_smoothing, static_cast<DType>(dtype), 0},
             pointer<void>(loss),
             pointer<float>(stats),
             pointer<void>(grad_x),
             pointer<float>(scratch)},
            stream);
      },
      ReleaseGil());
  module.def(
      "cross_entropy_backward_cuda",
      [](uintptr_t x, uintptr_t index, uintptr_t probability, uintptr_t class_weight, int64_t rows,
         int64_t classes, int64_t ignore_index, int reduction, double label_smoothing, int dtype,
         uintptr_t grad, uintptr_t stats, uintptr_t grad_x, uintptr_t grad_probability,
         uintptr_t scratch, Stream stream) {
        cross_entropy_backward_cuda(
            {{pointer<void>(x), pointer<int64_t>(index), pointer<void>(probability),
              pointer<void>(class_weight), rows, classes, ignore_index,
              static_cast<Reduction>(reduction), label_smoothing, static_cast<DType>(dtype), 0},
             pointer<void>(grad),
             pointer<float>(stats),
             pointer<void>(grad_x),
             pointer<void>(grad_probability),
             pointer<float>(scratch)},
            stream);
      },
      ReleaseGil());
  module.def(
      "cross_entropy_scale_cuda",
      [](uintptr_t gradient, uintptr_t factor, int64_t size, int dtype, Stream stream) {
        cross_entropy_scale_cuda(pointer<void>(gradient), pointer<void>(factor), size,
                                 static_cast<DType>(dtype), stream);
      },
      ReleaseGil());
}

}  // namespace fastmodel
