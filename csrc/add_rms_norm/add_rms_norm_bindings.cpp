#include "add_rms_norm/add_rms_norm.h"
#include "common/norm_bindings.h"

namespace fastmodel {

void bind_add_rms_norm(py::module_& module) {
  bind_norm(module, "add_rms_norm", add_rms_norm_forward_cpu, add_rms_norm_backward_cpu);
}

}  // namespace fastmodel
