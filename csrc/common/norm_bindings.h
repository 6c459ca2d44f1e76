// The bindings of a norm, by its name.
#pragma once

#include <string>

#include "common/bindings.h"
#include "common/norm.h"

namespace fastmodel {

inline void bind_norm(py::module_& module, const std::string& op,
                      void (*forward)(const NormForward&), void (*backward)(const NormBackward&)) {
  module.def((op + "_forward_cpu").c_str(),
             [forward](uintptr_t weight, uintptr_t bias, int64_t rows, int64_t features, double eps,
                       int dtype, int threads, uintptr_t x, uintptr_t residual, uintptr_t sum,
                       uintptr_t out, uintptr_t stats) {
               forward({{pointer<float>(weight), pointer<float>(bias), rows, features, eps,
                         static_cast<DType>(dtype), threads},
                        pointer<void>(x),
                        pointer<void>(residual),
                        pointer<void>(sum),
                        pointer<void>(out),
                        pointer<float>(stats)});
             },
             ReleaseGil());
  module.def(
      (op + "_backward_cpu").c_str(),
      [backward](uintptr_t weight, uintptr_t bias, int64_t rows, int64_t features, double eps,
                 int dtype, int threads, uintptr_t grad, uintptr_t grad_sum, uintptr_t x,
                 uintptr_t stats, uintptr_t grad_x, uintptr_t grad_weight, uintptr_t grad_bias) {
        backward({{pointer<float>(weight), pointer<float>(bias), rows, features, eps,
                   static_cast<DType>(dtype), threads},
                  pointer<void>(grad),
                  pointer<void>(grad_sum),
                  pointer<void>(x),
                  pointer<float>(stats),
                  pointer<void>(grad_x),
                  pointer<float>(grad_weight),
                  pointer<float>(grad_bias)});
      },
      ReleaseGil());
}

}  // namespace fastmodel
