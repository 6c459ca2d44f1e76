// rope: rotary embedding of pairs (i, i + width / 2); shapes and formulas stand in
// common/rotary.h.
#pragma once

#include "common/capability.h"
#include "common/rotary.h"

namespace fastmodel {

FASTMODEL_CPU_KERNEL(rope_turn_cpu, RotaryTurn)

}  // namespace fastmodel
