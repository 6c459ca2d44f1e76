#include "common/gated_bindings.h"
#include "swiglu/swiglu.h"

namespace fastmodel {

void bind_swiglu(py::module_& module) {
  bind_gated(module, "swiglu", swiglu_forward_cpu, swiglu_backward_cpu);
}

}  // namespace fastmodel
