#include "common/bindings.h"
#include "linear/linear_cuda.h"

namespace fastmodel {

void bind_linear_cuda(py::module_& module) {
  module.def("linear_chain_partials_cuda", &linear_chain_partials);
  module.def(
      "linear_apply_cuda",
      [](int activation, uintptr_t pre, uintptr_t out, int64_t size, int dtype, Stream stream) {
        linear_apply_cuda(
            static_cast<Activation>(activation),
            {pointer<void>(pre), pointer<void>(out), size, static_cast<DType>(dtype), 0}, stream);
      },
      ReleaseGil());
  module.def(
      "linear_chain_cuda",
      [](int activation, uintptr_t grad, uintptr_t saved, uintptr_t chained, uintptr_t grad_bias,
         uintptr_t partials, int64_t rows, int64_t out_features, int dtype, Stream stream) {
        linear_chain_cuda(
            static_cast<Activation>(activation),
            {{pointer<void>(grad), pointer<void>(saved), pointer<void>(chained),
              pointer<void>(grad_bias), rows, out_features, static_cast<DType>(dtype), 0},
             pointer<float>(partials)},
            stream);
      },
      ReleaseGil());
}

}  // namespace fastmodel
