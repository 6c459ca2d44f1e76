// linear_tanh: out = tanh(pre), pre = x weight^T + bias; shapes stand in
// common/linear_activation.h. Backward reads out: its derivative is
// 1 - out^2.
#pragma once

#include "common/capability.h"
#include "common/linear_activation.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(linear_tanh_forward_cpu, LinearActivationForward)
FASTMODEL_CPU_KERNEL(linear_tanh_backward_cpu, LinearActivationBackward)
FASTMODEL_CPU_KERNEL(linear_tanh_apply_cpu, LinearActivationApply)
FASTMODEL_CPU_KERNEL(linear_tanh_chain_cpu, LinearActivationChain)

}  // namespace fastmodel
