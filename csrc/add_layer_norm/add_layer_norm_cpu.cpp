// add_layer_norm on the CPU: the passes of common/norm_cpu.h.
#include "add_layer_norm/add_layer_norm.h"
#include "common/norm_cpu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void add_layer_norm_forward_cpu(const NormForward& args) {
  run_norm_forward<LayerNorm, true>(args);
}

void add_layer_norm_backward_cpu(const NormBackward& args) { run_norm_backward<LayerNorm>(args); }

}  // namespace fastmodel::FASTMODEL_CAPABILITY
