// What a loss makes of its terms.
#pragma once

namespace fastmodel {

// The codes that Python passes; see fastmodel/ops/<op>/reference.py.
enum class Reduction : int { kNone = 0, kMean = 1, kSum = 2 };

}  // namespace fastmodel
