// rms_norm on the CPU: the passes of common/norm_cpu.h.
#include "common/norm_cpu.h"
#include "rms_norm/rms_norm.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void rms_norm_forward_cpu(const NormForward& args) { run_norm_forward<RmsNorm, false>(args); }

void rms_norm_backward_cpu(const NormBackward& args) { run_norm_backward<RmsNorm>(args); }

}  // namespace fastmodel::FASTMODEL_CAPABILITY
