#include "common/norm_bindings.h"
#include "layer_norm/layer_norm.h"

namespace fastmodel {

void bind_layer_norm(py::module_& module) {
  bind_norm(module, "layer_norm", layer_norm_forward_cpu, layer_norm_backward_cpu);
}

}  // namespace fastmodel
