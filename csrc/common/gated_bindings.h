// The bindings of a gated linear unit, by its name.
#pragma once

#include <string>

#include "common/bindings.h"
#include "common/gated.h"

namespace fastmodel {

inline void bind_gated(py::module_& module, const std::string& op,
                       void (*forward)(const GatedForward&),
                       void (*backward)(const GatedBackward&)) {
  module.def((op + "_forward_cpu").c_str(),
             [forward](uintptr_t gate, uintptr_t up, uintptr_t out, int64_t rows, int64_t columns,
                       int64_t gate_step, int64_t up_step, int dtype, int threads) {
               forward({pointer<void>(gate), pointer<void>(up), pointer<void>(out), rows, columns,
                        gate_step, up_step, static_cast<DType>(dtype), threads});
             },
             ReleaseGil());
  module.def((op + "_backward_cpu").c_str(),
             [backward](uintptr_t grad, uintptr_t gate, uintptr_t up, uintptr_t grad_gate,
                        uintptr_t grad_up, int64_t rows, int64_t columns, int64_t grad_step,
                        int64_t gate_step, int64_t up_step, int dtype, int threads) {
               backward({pointer<void>(grad), pointer<void>(gate), pointer<void>(up),
                         pointer<void>(grad_gate), pointer<void>(grad_up), rows, columns, grad_step,
                         gate_step, up_step, static_cast<DType>(dtype), threads});
             },
             ReleaseGil());
}

}  // namespace fastmodel
