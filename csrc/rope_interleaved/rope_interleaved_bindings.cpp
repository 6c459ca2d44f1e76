#include "common/rotary_bindings.h"
#include "rope_interleaved/rope_interleaved.h"

namespace fastmodel {

void bind_rope_interleaved(py::module_& module) {
  bind_rotary(module, "rope_interleaved", rope_interleaved_turn_cpu);
}

}  // namespace fastmodel
