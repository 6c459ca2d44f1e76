// linear_tanh on the CPU: common/linear_activation_cpu.h with its activation.
#include "common/linear_activation_cpu.h"
#include "linear_tanh/linear_tanh.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void linear_tanh_forward_cpu(const LinearActivationForward& args) {
  LinearActivation<Tanh>::forward(args);
}

void linear_tanh_backward_cpu(const LinearActivationBackward& args) {
  LinearActivation<Tanh>::backward(args);
}

void linear_tanh_apply_cpu(const LinearActivationApply& args) {
  LinearActivation<Tanh>::apply(args);
}

void linear_tanh_chain_cpu(const LinearActivationChain& args) {
  LinearActivation<Tanh>::chain(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
