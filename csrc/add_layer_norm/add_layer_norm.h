// add_layer_norm: sum = x + residual and out = (sum - mean) * rstd * weight + bias over each row of
// sum; common/norm.h has the whole.
#pragma once

#include "common/capability.h"
#include "common/norm.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(add_layer_norm_forward_cpu, NormForward)
FASTMODEL_CPU_KERNEL(add_layer_norm_backward_cpu, NormBackward)

}  // namespace fastmodel
