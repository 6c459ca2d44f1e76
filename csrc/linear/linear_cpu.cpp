// linear on the CPU: common/linear_activation_cpu.h without an activation.
#include "common/linear_activation_cpu.h"
#include "linear/linear.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

struct Identity {
  static FASTMODEL_INLINE Vec value(Vec z) { return z; }
  static FASTMODEL_INLINE Vec derivative(Vec) { return broadcast(1.0f); }
};

}  // namespace

void linear_forward_cpu(const LinearActivationForward& args) {
  LinearActivation<Identity>::forward(args);
}

void linear_backward_cpu(const LinearActivationBackward& args) {
  LinearActivation<Identity>::backward(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
