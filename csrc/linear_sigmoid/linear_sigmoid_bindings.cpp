#include "common/linear_activation_bindings.h"
#include "linear_sigmoid/linear_sigmoid.h"

namespace fastmodel {

void bind_linear_sigmoid(py::module_& module) {
  bind_linear_activation(module, "linear_sigmoid",
                         {linear_sigmoid_forward_cpu, linear_sigmoid_backward_cpu,
                          linear_sigmoid_apply_cpu, linear_sigmoid_chain_cpu});
}

}  // namespace fastmodel
