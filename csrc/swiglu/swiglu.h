// swiglu: out = activation(gate) * up, activation(z) = z * sigmoid(z); shapes and
// gradients stand in common/gated.h.
#pragma once

#include "common/capability.h"
#include "common/gated.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(swiglu_forward_cpu, GatedForward)
FASTMODEL_CPU_KERNEL(swiglu_backward_cpu, GatedBackward)

}  // namespace fastmodel
