// linear_silu: out = pre * sigmoid(pre), pre = x weight^T + bias; shapes stand in
// common/linear_activation.h. Backward reads pre: its derivative is
// s * (1 + pre * (1 - s)), s = sigmoid(pre).
#pragma once

#include "common/capability.h"
#include "common/linear_activation.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(linear_silu_forward_cpu, LinearActivationForward)
FASTMODEL_CPU_KERNEL(linear_silu_backward_cpu, LinearActivationBackward)
FASTMODEL_CPU_KERNEL(linear_silu_apply_cpu, LinearActivationApply)
FASTMODEL_CPU_KERNEL(linear_silu_chain_cpu, LinearActivationChain)

}  // namespace fastmodel
