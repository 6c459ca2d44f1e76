// The backward pass of a ReLU behind a bias, over a row-major matrix: one pass masks the gradient
// and sums its columns.
#pragma once

#include <memory>

#include "common/threads.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// masked = scale * grad where out is alive (not out <= 0), else 0; column_sums[c] = sum over rows
// of masked, unless it is null. T is the tensors' type, M that of masked.
template <typename T, typename M>
void relu_mask(const T* grad, const T* out, M* masked, T* column_sums, int64_t rows,
               int64_t columns, int threads, float scale = 1.0f) {
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(threads, rows));
  const std::unique_ptr<float[]> sums(new float[shares * columns]());
  parallel_for(rows, threads, [&](int64_t begin, int64_t end, int thread) {
    float* own = sums.get() + thread * columns;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * columns;
      for (int64_t c = 0; c < columns; c += kLanes) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
        const Vec y = load_first(out + at + c, lanes);
        const Vec g = y <= 0.0f ? Vec{} : scale * load_first(grad + at + c, lanes);
        store_first(masked + at + c, g, lanes);
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
