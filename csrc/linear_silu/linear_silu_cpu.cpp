// linear_silu on the CPU: common/linear_activation_cpu.h with its activation.
#include "common/linear_activation_cpu.h"
#include "linear_silu/linear_silu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void linear_silu_forward_cpu(const LinearActivationForward& args) {
  LinearActivation<Silu>::forward(args);
}

void linear_silu_backward_cpu(const LinearActivationBackward& args) {
  LinearActivation<Silu>::backward(args);
}

void linear_silu_apply_cpu(const LinearActivationApply& args) {
  LinearActivation<Silu>::apply(args);
}

void linear_silu_chain_cpu(const LinearActivationChain& args) {
  LinearActivation<Silu>::chain(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
