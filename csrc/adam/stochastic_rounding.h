// Float32 to bfloat16, up or down at random, so that the mean over the random bits is the value:
// sums of many small increments, each below half a unit in the last place, still arrive.
#pragma once

#include "common/random_bits.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Adds `bits`, uniform below 2^16, to what is cut off. NaN stays NaN.
FASTMODEL_INLINE void store_rounded(BFloat16* p, Vec v, UVec bits, int n) {
  UVec wide;
  std::memcpy(&wide, &v, sizeof(v));
  const UVec rounded = (wide + bits) >> 16;
  const UVec is_nan = reinterpret_cast<UVec>(v != v);
  const UVec chosen = (is_nan & 0x7FC0u) | (~is_nan & rounded);
  const HalfBits kept = narrow(reinterpret_cast<IVec>(chosen));
  if (n >= kLanes) {
    std::memcpy(p, &kept, sizeof(kept));
  } else {
    for (int l = 0; l < n; ++l) p[l].bits = kept[l];
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
