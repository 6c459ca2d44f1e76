// The backward pass of an elementwise function behind a bias, over a row-major matrix: one pass
// takes the gradient through the function and sums its columns.
#pragma once

#include <memory>

#include "common/threads.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// chained = rule(saved, grad); column_sums[c] = sum over rows of chained, unless it is null. T is
// the tensors' type, M that of chained.
template <typename T, typename M, typename Rule>
void chain_rule(const T* grad, const T* saved, M* chained, T* column_sums, int64_t rows,
                int64_t columns, int threads, const Rule& rule) {
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(threads, rows));
  const std::unique_ptr<float[]> sums(new float[shares * columns]());
  parallel_for(rows, threads, [&](int64_t begin, int64_t end, int thread) {
    float* own = sums.get() + thread * columns;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * columns;
      for (int64_t c = 0; c < columns; c += kLanes) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
        const Vec g = rule(load_first(saved + at + c, lanes), load_first(grad + at + c, lanes));
        store_first(chained + at + c, g, lanes);
        store_first(own + c, load_first(own + c, lanes) + g, lanes);
      }
    }
  });
  if (column_sums == nullptr) return;
  for (int64_t c = 0; c < columns; ++c) {
    float total = 0.0f;
    for (int64_t i = 0; i < shares; ++i) total += sums[i * columns + c];
    from_float(total, column_sums + c);
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
