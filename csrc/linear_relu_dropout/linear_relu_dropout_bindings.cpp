#include "common/bindings.h"
#include "linear_relu_dropout/linear_relu_dropout.h"

namespace fastmodel {

void bind_linear_relu_dropout(py::module_& module) {
  module.def(
      "linear_relu_dropout_cpu",
      [](uintptr_t out, int64_t size, uint64_t seed, uint64_t threshold, float scale, int dtype,
         int threads) {
        linear_relu_dropout_cpu(
            {pointer<void>(out), size, seed, threshold, scale, static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
}

}  // namespace fastmodel
