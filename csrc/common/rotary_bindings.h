// The binding of a rotary embedding, by its name.
#pragma once

#include <string>

#include "common/bindings.h"
#include "common/rotary.h"

namespace fastmodel {

inline void bind_rotary(py::module_& module, const std::string& op,
                        void (*turn)(const RotaryTurn&)) {
  module.def((op + "_turn_cpu").c_str(),
             [turn](uintptr_t x, uintptr_t out, uintptr_t cos, uintptr_t sin, int64_t batch,
                    int64_t heads, int64_t length, int64_t width, int64_t x_batch, int64_t x_head,
                    int64_t x_position, int64_t out_batch, int64_t out_head, int64_t out_position,
                    int64_t table_step, bool is_backward, int dtype, int threads) {
               turn({pointer<void>(x),
                     pointer<void>(out),
                     pointer<float>(cos),
                     pointer<float>(sin),
                     batch,
                     heads,
                     length,
                     width,
                     {x_batch, x_head, x_position},
                     {out_batch, out_head, out_position},
                     table_step,
                     is_backward,
                     static_cast<DType>(dtype),
                     threads});
             },
             ReleaseGil());
}

}  // namespace fastmodel
