#include "common/linear_activation_bindings.h"
#include "linear_gelu/linear_gelu.h"

namespace fastmodel {

void bind_linear_gelu(py::module_& module) {
  bind_linear_activation(module, "linear_gelu",
                         {linear_gelu_forward_cpu, linear_gelu_backward_cpu, linear_gelu_apply_cpu,
                          linear_gelu_chain_cpu});
}

}  // namespace fastmodel
