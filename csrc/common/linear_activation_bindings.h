// The bindings of an op that is a linear layer and an activation, by its name.
#pragma once

#include <string>

#include "common/bindings.h"
#include "common/linear_activation.h"

namespace fastmodel {

struct LinearActivationKernels {
  void (*forward)(const LinearActivationForward&);
  void (*backward)(const LinearActivationBackward&);
  void (*apply)(const LinearActivationApply&);
  void (*chain)(const LinearActivationChain&);
};

inline void bind_linear_activation(py::module_& module, const std::string& op,
                                   LinearActivationKernels kernels) {
  module.def(
      (op + "_forward_cpu").c_str(),
      [kernels](uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t out, uintptr_t pre,
                int64_t rows, int64_t in_features, int64_t out_features, int dtype, int threads) {
        kernels.forward({pointer<void>(x), pointer<void>(weight), pointer<void>(bias),
                         pointer<void>(out), pointer<void>(pre), rows, in_features, out_features,
                         static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
  module.def(
      (op + "_backward_cpu").c_str(),
      [kernels](uintptr_t grad, uintptr_t x, uintptr_t weight, uintptr_t saved, uintptr_t chained,
                uintptr_t grad_x, uintptr_t grad_weight, uintptr_t grad_bias, int64_t rows,
                int64_t in_features, int64_t out_features, int dtype, int threads) {
        kernels.backward({pointer<void>(grad), pointer<void>(x), pointer<void>(weight),
                          pointer<void>(saved), pointer<float>(chained), pointer<void>(grad_x),
                          pointer<void>(grad_weight), pointer<void>(grad_bias), rows, in_features,
                          out_features, static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
  module.def((op + "_apply_cpu").c_str(),
             [kernels](uintptr_t pre, uintptr_t out, int64_t size, int dtype, int threads) {
               kernels.apply({pointer<void>(pre), pointer<void>(out), size,
                              static_cast<DType>(dtype), threads});
             },
             ReleaseGil());
  module.def((op + "_chain_cpu").c_str(),
             [kernels](uintptr_t grad, uintptr_t saved, uintptr_t chained, uintptr_t grad_bias,
                       int64_t rows, int64_t out_features, int dtype, int threads) {
               kernels.chain({pointer<void>(grad), pointer<void>(saved), pointer<void>(chained),
                              pointer<void>(grad_bias), rows, out_features,
                              static_cast<DType>(dtype), threads});
             },
             ReleaseGil());
}

}  // namespace fastmodel
