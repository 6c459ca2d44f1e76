// The backward pass of a ReLU behind a bias, over a row-major matrix: one pass masks the gradient
// and sums its columns.
#pragma once

#include "common/chain_rule.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// masked = scale * grad where out is alive (not out <= 0), else 0; column_sums[c] = sum over rows
// of masked, unless it is null. T is the tensors' type, M that of masked.
template <typename T, typename M>
void relu_mask(const T* grad, const T* out, M* masked, T* column_sums, int64_t rows,
               int64_t columns, int threads, float scale = 1.0f) {
  chain_rule(grad, out, masked, column_sums, rows, columns, threads,
             [scale](Vec y, Vec g) { return y <= 0.0f ? Vec{} : scale * g; });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
