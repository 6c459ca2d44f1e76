#include "add_layer_norm/add_layer_norm.h"
#include "common/norm_bindings.h"

namespace fastmodel {

void bind_add_layer_norm(py::module_& module) {
  bind_norm(module, "add_layer_norm", add_layer_norm_forward_cpu, add_layer_norm_backward_cpu);
}

}  // namespace fastmodel
