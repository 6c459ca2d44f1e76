#include "common/rotary_bindings.h"
#include "rope/rope.h"

namespace fastmodel {

void bind_rope(py::module_& module) { bind_rotary(module, "rope", rope_turn_cpu); }

}  // namespace fastmodel
