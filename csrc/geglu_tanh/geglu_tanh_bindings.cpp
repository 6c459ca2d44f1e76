#include "common/gated_bindings.h"
#include "geglu_tanh/geglu_tanh.h"

namespace fastmodel {

void bind_geglu_tanh(py::module_& module) {
  bind_gated(module, "geglu_tanh", geglu_tanh_forward_cpu, geglu_tanh_backward_cpu);
}

}  // namespace fastmodel
