// Sums that each share of a parallel loop keeps for itself, and their total in the shares' order:
// the same bits for the same number of shares.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/workspace.h"

namespace fastmodel {

class ShareSums {
 public:
  // `floats` sums for each of `shares`, all zero.
  ShareSums(int64_t shares, int64_t floats)
      : shares_(shares), pitch_(whole_lines(floats) + kApart), sums_(shares * pitch_) {
    std::fill_n(sums_.get(), shares * pitch_, 0.0f);
  }

  float* of(int64_t share) const { return sums_.get() + share * pitch_; }

  float total(int64_t at) const {
    float total = 0.0f;
    for (int64_t share = 0; share < shares_; ++share) total += of(share)[at];
    return total;
  }

 private:
  // Two threads that write to one cache line, or to two that are fetched as a pair, take it from
  // each other at every turn: masking a gradient of 6,272 pixels x 64 channels took 2 to 6 times as
  // long.
  static constexpr int64_t kApart = 16;

  int64_t shares_, pitch_;
  Workspace sums_;
};

}  // namespace fastmodel
