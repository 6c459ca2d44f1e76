// add_rms_norm on the CPU: the passes of common/norm_cpu.h.
#include "add_rms_norm/add_rms_norm.h"
#include "common/norm_cpu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void add_rms_norm_forward_cpu(const NormForward& args) { run_norm_forward<RmsNorm, true>(args); }

void add_rms_norm_backward_cpu(const NormBackward& args) { run_norm_backward<RmsNorm>(args); }

}  // namespace fastmodel::FASTMODEL_CAPABILITY
