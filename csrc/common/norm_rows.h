// What the norms' two passes share: the shape of the two norms, and sums over a row.
#pragma once

#include <algorithm>
#include <array>

#include "common/norm.h"
#include "common/threads.h"
#include "common/vectors.h"
#include "common/workspace.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Does a norm take the mean away first? Then it has a bias, too.
struct LayerNorm {
  static constexpr bool kIsCentred = true;
};
struct RmsNorm {
  static constexpr bool kIsCentred = false;
};

// A thread takes at least this many values: some 5 us of work, against a few to start a team.
constexpr int64_t kNormValuesPerThread = 16384;

inline int norm_threads(const NormProblem& p) {
  const int64_t most = std::max<int64_t>(1, p.rows * p.features / kNormValuesPerThread);
  return static_cast<int>(std::min<int64_t>(p.threads, most));
}

// `given`, or `fill` in each of its places.
class Parameter {
 public:
  Parameter(const float* given, int64_t features, float fill)
      : filled_(given == nullptr ? features : 0), data_(given) {
    if (given != nullptr) return;
    std::fill_n(filled_.get(), features, fill);
    data_ = filled_.get();
  }
  const float* get() const { return data_; }

 private:
  Workspace filled_;
  const float* data_;
};

// Calls body(i, lanes) for the vectors of [begin, n): lanes is kLanes but for the last.
template <typename Body>
FASTMODEL_INLINE void for_each_vector_from(int64_t begin, int64_t n, const Body& body) {
  int64_t i = begin;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, static_cast<int>(n - i));
}

// kCount sums over a row: add(i, lanes, sums) adds to them what stands in the lanes at i.
template <int kCount, typename Add>
FASTMODEL_INLINE std::array<float, kCount> row_sums(int64_t n, const Add& add) {
  constexpr int kChains = 4;  // 2 ports x 4 cycles of latency, two loads each
  Vec sums[kChains][kCount] = {};
  int64_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
    FASTMODEL_UNROLL
    for (int chain = 0; chain < kChains; ++chain) add(i + chain * kLanes, kLanes, sums[chain]);
  }
  for_each_vector_from(i, n, [&](int64_t at, int lanes) { add(at, lanes, sums[0]); });
  std::array<float, kCount> found;
  FASTMODEL_UNROLL
  for (int k = 0; k < kCount; ++k) {
    found[k] = sum((sums[0][k] + sums[1][k]) + (sums[2][k] + sums[3][k]));
  }
  return found;
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
