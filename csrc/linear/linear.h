// linear: out = x weight^T + bias; shapes stand in common/linear_activation.h. Backward reads
// nothing of the output.
#pragma once

#include "common/capability.h"
#include "common/linear_activation.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(linear_forward_cpu, LinearActivationForward)
FASTMODEL_CPU_KERNEL(linear_backward_cpu, LinearActivationBackward)

}  // namespace fastmodel
