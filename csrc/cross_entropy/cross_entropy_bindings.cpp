#include "common/bindings.h"
#include "cross_entropy/cross_entropy.h"

namespace fastmodel {

void bind_cross_entropy(py::module_& module) {
  // Both return the first row whose class index is out of range, or -1.
  module.def(
      "cross_entropy_forward_cpu",
      [](uintptr_t x, uintptr_t index, uintptr_t probability, uintptr_t class_weight, int64_t rows,
         int64_t classes, int64_t ignore_index, int reduction, double label_smoothing, int dtype,
         int threads, uintptr_t loss, uintptr_t row_loss, uintptr_t stats, uintptr_t grad_x) {
        int64_t row_at_fault = -1;
        cross_entropy_forward_cpu({{pointer<void>(x), pointer<int64_t>(index),
                                    pointer<void>(probability), pointer<void>(class_weight), rows,
                                    classes, ignore_index, static_cast<Reduction>(reduction),
                                    label_smoothing, static_cast<DType>(dtype), threads},
                                   pointer<void>(loss),
                                   pointer<float>(row_loss),
                                   pointer<float>(stats),
                                   pointer<void>(grad_x),
                                   &row_at_fault});
        return row_at_fault;
      },
      ReleaseGil());
  module.def(
      "cross_entropy_backward_cpu",
      [](uintptr_t x, uintptr_t index, uintptr_t probability, uintptr_t class_weight, int64_t rows,
         int64_t classes, int64_t ignore_index, int reduction, double label_smoothing, int dtype,
         int threads, uintptr_t grad, uintptr_t stats, uintptr_t grad_x,
         uintptr_t grad_probability) {
        int64_t row_at_fault = -1;
        cross_entropy_backward_cpu({{pointer<void>(x), pointer<int64_t>(index),
                                     pointer<void>(probability), pointer<void>(class_weight), rows,
                                     classes, ignore_index, static_cast<Reduction>(reduction),
                                     label_smoothing, static_cast<DType>(dtype), threads},
                                    pointer<void>(grad),
                                    pointer<float>(stats),
                                    pointer<void>(grad_x),
                                    pointer<void>(grad_probability),
                                    &row_at_fault});
        return row_at_fault;
      },
      ReleaseGil());
}

}  // namespace fastmodel
