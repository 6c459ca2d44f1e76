// rope_interleaved: rotary embedding of pairs (i, i + 1); shapes and formulas stand in
// common/rotary.h.
#pragma once

#include "common/capability.h"
#include "common/rotary.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(rope_interleaved_turn_cpu, RotaryTurn)

}  // namespace fastmodel
