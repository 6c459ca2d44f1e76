// rms_norm: out = x * rstd * weight over each row of x; common/norm.h has the whole.
#pragma once

#include "common/capability.h"
#include "common/norm.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(rms_norm_forward_cpu, NormForward)
FASTMODEL_CPU_KERNEL(rms_norm_backward_cpu, NormBackward)

}  // namespace fastmodel
