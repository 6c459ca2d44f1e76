// rope on the CPU: common/rotary_cpu.h with its pairs.
#include "common/rotary_cpu.h"
#include "rope/rope.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void rope_turn_cpu(const RotaryTurn& args) { rotary_turn_any<Halves>(args); }

}  // namespace fastmodel::FASTMODEL_CAPABILITY
