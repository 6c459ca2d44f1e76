// The backward pass of an elementwise function behind a bias, over a row-major matrix: one pass
// takes the gradient through the function and sums its columns.
#pragma once

#include <algorithm>

#include "common/share_sums.h"
#include "common/threads.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Sums are kept in registers for a tile of this many rows and columns: going through memory for
// each row would wait for the store before. A tile's part of a row is four cache lines in a row.
constexpr int64_t kTileRows = 32;
constexpr int kTileVecs = 4;

// Vectors [c, c + kVecs * kLanes) of rows [begin, end), the last one's first `lanes` elements.
template <int kVecs, typename T, typename M, typename Rule>
void chain_tile(const T* grad, const T* saved, M* chained, float* sums, int64_t begin, int64_t end,
                int64_t columns, int64_t c, int lanes, const Rule& rule) {
  const auto in = [lanes](const auto* from, int v) __attribute__((always_inline)) {
    return v + 1 < kVecs || lanes == kLanes ? load(from + v * kLanes)
                                            : load_first(from + v * kLanes, lanes);
  };
  const auto put = [lanes](auto* to, int v, Vec value) __attribute__((always_inline)) {
    if (v + 1 < kVecs || lanes == kLanes) {
      store(to + v * kLanes, value);
    } else {
      store_first(to + v * kLanes, value, lanes);
    }
  };
  Vec sum[kVecs];
  for (int v = 0; v < kVecs; ++v) sum[v] = in(sums + c, v);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * columns + c;
    for (int v = 0; v < kVecs; ++v) {
      const Vec g = rule(in(saved + at, v), in(grad + at, v));
      put(chained + at, v, g);
      sum[v] += g;
    }
  }
  for (int v = 0; v < kVecs; ++v) put(sums + c, v, sum[v]);
}

// chained = rule(saved, grad); column_sums[c] = sum over rows of chained, unless it is null. T is
// the tensors' type, M that of chained.
template <typename T, typename M, typename Rule>
void chain_rule(const T* grad, const T* saved, M* chained, T* column_sums, int64_t rows,
                int64_t columns, int threads, const Rule& rule) {
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(threads, rows));
  const ShareSums sums(shares, columns);
  parallel_for(rows, threads, [&](int64_t begin, int64_t end, int thread) {
    float* const own = sums.of(thread);
    for (int64_t row = begin; row < end; row += kTileRows) {
      const int64_t last = std::min(row + kTileRows, end);
      int64_t c = 0;
      for (; c + kTileVecs * kLanes <= columns; c += kTileVecs * kLanes) {
        chain_tile<kTileVecs>(grad, saved, chained, own, row, last, columns, c, kLanes, rule);
      }
      for (; c < columns; c += kLanes) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
        chain_tile<1>(grad, saved, chained, own, row, last, columns, c, lanes, rule);
      }
    }
  });
  if (column_sums == nullptr) return;
  for (int64_t c = 0; c < columns; ++c) from_float(sums.total(c), column_sums + c);
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
