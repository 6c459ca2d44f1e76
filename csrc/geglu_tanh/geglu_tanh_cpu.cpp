// geglu_tanh on the CPU: common/gated_cpu.h with its activation.
#include "common/gated_cpu.h"
#include "geglu_tanh/geglu_tanh.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void geglu_tanh_forward_cpu(const GatedForward& args) { Gated<GeluTanh>::forward(args); }

void geglu_tanh_backward_cpu(const GatedBackward& args) { Gated<GeluTanh>::backward(args); }

}  // namespace fastmodel::FASTMODEL_CAPABILITY
