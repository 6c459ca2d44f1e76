// layer_norm on the CPU: the passes of common/norm_cpu.h.
#include "common/norm_cpu.h"
#include "layer_norm/layer_norm.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void layer_norm_forward_cpu(const NormForward& args) { run_norm_forward<LayerNorm, false>(args); }

void layer_norm_backward_cpu(const NormBackward& args) { run_norm_backward<LayerNorm>(args); }

}  // namespace fastmodel::FASTMODEL_CAPABILITY
