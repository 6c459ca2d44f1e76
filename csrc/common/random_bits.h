// Random bits for the elements of a tensor, by their place alone: whoever asks, on however many
// threads and with vectors of whatever width, gets the same.
#pragma once

#include <algorithm>

#include "common/philox.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Random bits come for this many elements at a time: element e of a tensor takes word (e % 64) / 16
// of counter (e / 64) * 16 + e % 16, whatever the vector's width.
constexpr int kRandomBlock = 64, kCountersPerBlock = 16, kWords = 4;

// Calls lanes(i, n, word) for the vectors of [begin, end), with 32 random bits a lane; `begin` is a
// multiple of kRandomBlock.
template <typename Lanes>
FASTMODEL_INLINE void for_each_with_bits(int64_t begin, int64_t end, uint32_t ordinal,
                                         uint32_t step, uint64_t seed, const Lanes& lanes) {
  int64_t i = begin;
  for (; i + kRandomBlock <= end; i += kRandomBlock) {
    for (int l = 0; l < kCountersPerBlock; l += kLanes) {
      UVec words[kWords];
      philox(i / kRandomBlock * kCountersPerBlock + l, ordinal, step, seed, words);
      FASTMODEL_UNROLL
      for (int w = 0; w < kWords; ++w) lanes(i + w * kCountersPerBlock + l, kLanes, words[w]);
    }
  }
  if (i == end) return;
  for (int l = 0; l < kCountersPerBlock; l += kLanes) {
    UVec words[kWords];
    philox(i / kRandomBlock * kCountersPerBlock + l, ordinal, step, seed, words);
    for (int w = 0; w < kWords; ++w) {
      const int64_t from = i + w * kCountersPerBlock + l;
      if (from < end)
        lanes(from, static_cast<int>(std::min<int64_t>(end - from, kLanes)), words[w]);
    }
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
