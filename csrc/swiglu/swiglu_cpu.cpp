// swiglu on the CPU: common/gated_cpu.h with its activation.
#include "common/gated_cpu.h"
#include "swiglu/swiglu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void swiglu_forward_cpu(const GatedForward& args) { Gated<Silu>::forward(args); }

void swiglu_backward_cpu(const GatedBackward& args) { Gated<Silu>::backward(args); }

}  // namespace fastmodel::FASTMODEL_CAPABILITY
