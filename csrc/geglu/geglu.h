// geglu: out = activation(gate) * up, activation(z) = z * Phi(z); shapes and
// gradients stand in common/gated.h.
#pragma once

#include "common/capability.h"
#include "common/gated.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(geglu_forward_cpu, GatedForward)
FASTMODEL_CPU_KERNEL(geglu_backward_cpu, GatedBackward)

}  // namespace fastmodel
