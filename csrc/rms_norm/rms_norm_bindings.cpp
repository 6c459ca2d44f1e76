#include "common/norm_bindings.h"
#include "rms_norm/rms_norm.h"

namespace fastmodel {

void bind_rms_norm(py::module_& module) {
  bind_norm(module, "rms_norm", rms_norm_forward_cpu, rms_norm_backward_cpu);
}

}  // namespace fastmodel
