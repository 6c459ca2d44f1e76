// linear_sigmoid on the CPU: common/linear_activation_cpu.h with its activation.
#include "common/linear_activation_cpu.h"
#include "linear_sigmoid/linear_sigmoid.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void linear_sigmoid_forward_cpu(const LinearActivationForward& args) {
  LinearActivation<Sigmoid>::forward(args);
}

void linear_sigmoid_backward_cpu(const LinearActivationBackward& args) {
  LinearActivation<Sigmoid>::backward(args);
}

void linear_sigmoid_apply_cpu(const LinearActivationApply& args) {
  LinearActivation<Sigmoid>::apply(args);
}

void linear_sigmoid_chain_cpu(const LinearActivationChain& args) {
  LinearActivation<Sigmoid>::chain(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
