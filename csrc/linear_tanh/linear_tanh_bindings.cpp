#include "common/linear_activation_bindings.h"
#include "linear_tanh/linear_tanh.h"

namespace fastmodel {

void bind_linear_tanh(py::module_& module) {
  bind_linear_activation(module, "linear_tanh",
                         {linear_tanh_forward_cpu, linear_tanh_backward_cpu, linear_tanh_apply_cpu,
                          linear_tanh_chain_cpu});
}

}  // namespace fastmodel
