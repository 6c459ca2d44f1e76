// linear_gelu on the CPU: common/linear_activation_cpu.h with its activation.
#include "common/linear_activation_cpu.h"
#include "linear_gelu/linear_gelu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void linear_gelu_forward_cpu(const LinearActivationForward& args) {
  LinearActivation<Gelu>::forward(args);
}

void linear_gelu_backward_cpu(const LinearActivationBackward& args) {
  LinearActivation<Gelu>::backward(args);
}

void linear_gelu_apply_cpu(const LinearActivationApply& args) {
  LinearActivation<Gelu>::apply(args);
}

void linear_gelu_chain_cpu(const LinearActivationChain& args) {
  LinearActivation<Gelu>::chain(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
