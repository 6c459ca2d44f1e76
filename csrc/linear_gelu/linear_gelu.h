// linear_gelu: out = pre * Phi(pre), pre = x weight^T + bias; shapes stand in
// common/linear_activation.h. Backward reads pre: its derivative is
// Phi(pre) + pre * phi(pre).
#pragma once

#include "common/capability.h"
#include "common/linear_activation.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(linear_gelu_forward_cpu, LinearActivationForward)
FASTMODEL_CPU_KERNEL(linear_gelu_backward_cpu, LinearActivationBackward)
FASTMODEL_CPU_KERNEL(linear_gelu_apply_cpu, LinearActivationApply)
FASTMODEL_CPU_KERNEL(linear_gelu_chain_cpu, LinearActivationChain)

}  // namespace fastmodel
