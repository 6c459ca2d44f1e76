// rope_interleaved on the CPU: common/rotary_cpu.h with its pairs.
#include "common/rotary_cpu.h"
#include "rope_interleaved/rope_interleaved.h"

namespace fastmodel::FASTMODEL_CAPABILITY {

void rope_interleaved_turn_cpu(const RotaryTurn& args) { rotary_turn_any<Neighbours>(args); }

}  // namespace fastmodel::FASTMODEL_CAPABILITY
