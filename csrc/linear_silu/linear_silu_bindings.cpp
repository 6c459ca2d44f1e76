#include "common/linear_activation_bindings.h"
#include "linear_silu/linear_silu.h"

namespace fastmodel {

void bind_linear_silu(py::module_& module) {
  bind_linear_activation(module, "linear_silu",
                         {linear_silu_forward_cpu, linear_silu_backward_cpu, linear_silu_apply_cpu,
                          linear_silu_chain_cpu});
}

}  // namespace fastmodel
