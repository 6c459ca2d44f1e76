// geglu_tanh: out = activation(gate) * up, activation(z) = z * (1 + tanh(u)) / 2 with u = sqrt(2 /
// pi) (z + 0.044715 z^3); shapes and gradients stand in common/gated.h.
#pragma once

#include "common/capability.h"
#include "common/gated.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(geglu_tanh_forward_cpu, GatedForward)
FASTMODEL_CPU_KERNEL(geglu_tanh_backward_cpu, GatedBackward)

}  // namespace fastmodel
