// geglu on the CPU: common/gated_cpu.h with its activation.
#include "common/gated_cpu.h"
#include "geglu/geglu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void geglu_forward_cpu(const GatedForward& args) { Gated<Gelu>::forward(args); }

void geglu_backward_cpu(const GatedBackward& args) { Gated<Gelu>::backward(args); }

}  // namespace fastmodel::FASTMODEL_CAPABILITY
