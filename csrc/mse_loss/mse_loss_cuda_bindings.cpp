#include "common/bindings.h"
#include "mse_loss/mse_loss_cuda.h"

namespace fastmodel {

void bind_mse_loss_cuda(py::module_& module) {
  module.attr("mse_loss_partials") = kMseLossPartials;
  module.def(
      "mse_loss_forward_cuda",
      [](uintptr_t x, uintptr_t target, int64_t size, int reduction, int dtype, uintptr_t loss,
         uintptr_t partials, Stream stream) {
        mse_loss_forward_cuda({{pointer<void>(x), pointer<void>(target), size,
                                static_cast<Reduction>(reduction), static_cast<DType>(dtype), 0},
                               pointer<void>(loss),
                               pointer<double>(partials)},
                              stream);
      },
      ReleaseGil());
  module.def(
      "mse_loss_backward_cuda",
      [](uintptr_t x, uintptr_t target, int64_t size, int reduction, int dtype, uintptr_t grad,
         uintptr_t grad_x, uintptr_t grad_target, Stream stream) {
        mse_loss_backward_cuda({{pointer<void>(x), pointer<void>(target), size,
                                 static_cast<Reduction>(reduction), static_cast<DType>(dtype), 0},
                                pointer<void>(grad),
                                pointer<void>(grad_x),
                                pointer<void>(grad_target)},
                               stream);
      },
      ReleaseGil());
}

}  // namespace fastmodel
