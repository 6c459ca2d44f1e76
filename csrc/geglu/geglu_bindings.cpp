#include "common/gated_bindings.h"
#include "geglu/geglu.h"

namespace fastmodel {

void bind_geglu(py::module_& module) {
  bind_gated(module, "geglu", geglu_forward_cpu, geglu_backward_cpu);
}

}  // namespace fastmodel
