#include "common/linear_activation_bindings.h"
#include "linear/linear.h"

namespace fastmodel {

void bind_linear(py::module_& module) {
  bind_linear_products(module, "linear", linear_forward_cpu, linear_backward_cpu);
}

}  // namespace fastmodel
