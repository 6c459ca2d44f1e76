#include "common/bindings.h"
#include "mse_loss/mse_loss.h"

namespace fastmodel {

void bind_mse_loss(py::module_& module) {
  module.def(
      "mse_loss_forward_cpu",
      [](uintptr_t x, uintptr_t target, int64_t size, int reduction, int dtype, int threads,
         uintptr_t loss) {
        mse_loss_forward_cpu(
            {{pointer<void>(x), pointer<void>(target), size, static_cast<Reduction>(reduction),
              static_cast<DType>(dtype), threads},
             pointer<void>(loss)});
      },
      ReleaseGil());
  module.def(
      "mse_loss_backward_cpu",
      [](uintptr_t x, uintptr_t target, int64_t size, int reduction, int dtype, int threads,
         uintptr_t grad, uintptr_t grad_x, uintptr_t grad_target) {
        mse_loss_backward_cpu(
            {{pointer<void>(x), pointer<void>(target), size, static_cast<Reduction>(reduction),
              static_cast<DType>(dtype), threads},
             pointer<void>(grad),
             pointer<void>(grad_x),
             pointer<void>(grad_target)});
      },
      ReleaseGil());
}

}  // namespace fastmodel
