// linear_sigmoid: out = 1 / (1 + exp(-pre)), pre = x weight^T + bias; shapes stand in
// common/linear_activation.h. Backward reads out: its derivative is
// out * (1 - out).
#pragma once

#include "common/capability.h"
#include "common/linear_activation.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(linear_sigmoid_forward_cpu, LinearActivationForward)
FASTMODEL_CPU_KERNEL(linear_sigmoid_backward_cpu, LinearActivationBackward)
FASTMODEL_CPU_KERNEL(linear_sigmoid_apply_cpu, LinearActivationApply)
FASTMODEL_CPU_KERNEL(linear_sigmoid_chain_cpu, LinearActivationChain)

}  // namespace fastmodel
