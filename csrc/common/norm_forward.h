// The norms' forward pass on the CPU, row by row.
//
// FLOPs: 7 a value (layer norm), 4 (rms norm), nowhere near the floor that memory sets. Bytes, for
// b = 4 or 2 a value: x is read and out written, 2 b; with a residual two are read and two written,
// 4 b, against PyTorch's 3 b for the addition and 2 b for the norm. At 26 GB/s, a copy counted read
// + write, 2048 rows of 768 float32 take at least 0.48 ms, with a residual 0.97 ms.
//
// A row is swept once for its mean, once for the distances from it and once for out; but for the
// first time it comes from L1 or L2 (up to 256 KiB, 64k float32). From the distances' own sum
// comes what rounding left out of the mean: so a mean far from 0 costs neither deviation nor output
// a digit.
#pragma once

#include <cmath>

#include "common/huge_pages.h"
#include "common/norm_rows.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// hat = (x - mean - rest) * rstd; mean + rest is the mean in more digits than float32 has.
struct RowStats {
  float mean = 0.0f, rest = 0.0f, rstd;
};

inline float rstd_of(float variance, double eps) {
  // Rounding may take a variance of 0 below it; NaN stays NaN.
  return 1.0f / std::sqrt((variance < 0.0f ? 0.0f : variance) + static_cast<float>(eps));
}

template <typename Norm, typename T>
FASTMODEL_INLINE RowStats row_stats(const T* x, int64_t n, double eps) {
  const float share = 1.0f / static_cast<float>(n);
  if constexpr (Norm::kIsCentred) {
    const float mean = share * row_sums<1>(n, [&](int64_t i, int lanes, Vec* sums) {
                         sums[0] += load_first(x + i, lanes);
                       })[0];
    const auto [distance, square] = row_sums<2>(n, [&](int64_t i, int lanes, Vec* sums) {
      const Vec d = keep_first(load_first(x + i, lanes) - mean, lanes);
      sums[0] += d;
      sums[1] += d * d;
    });
    const float rest = distance * share;
    return {mean, rest, rstd_of(square * share - rest * rest, eps)};
  } else {
    const float square = row_sums<1>(n, [&](int64_t i, int lanes, Vec* sums) {
      const Vec v = load_first(x + i, lanes);
      sums[0] += v * v;
    })[0];
    return {0.0f, 0.0f, rstd_of(square * share, eps)};
  }
}

template <typename Norm, typename T>
FASTMODEL_INLINE void normalise_row(const T* x, RowStats stats, const float* weight,
                                    const float* bias, int64_t n, T* out) {
  for_each_vector_from(0, n, [&](int64_t i, int lanes) {
    Vec v = load_first(x + i, lanes);
    if constexpr (Norm::kIsCentred) v = (v - stats.mean) - stats.rest;
    v = v * stats.rstd * load_first(weight + i, lanes);
    if constexpr (Norm::kIsCentred) v += load_first(bias + i, lanes);
    store_first(out + i, v, lanes);
  });
}

template <typename Norm, bool kHasResidual, typename T>
void norm_forward(const NormForward& a) {
  const NormProblem& p = a.problem;
  const int64_t rows = p.rows, n = p.features;
  const Parameter weight(p.weight, n, 1.0f), bias(p.bias, Norm::kIsCentred ? n : 0, 0.0f);
  advise_huge_pages(a.out, rows * n * sizeof(T));
  if (kHasResidual) advise_huge_pages(a.sum, rows * n * sizeof(T));
  parallel_for(rows, norm_threads(p), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = static_cast<const T*>(a.x) + row * n;
      if constexpr (kHasResidual) {
        const T* residual = static_cast<const T*>(a.residual) + row * n;
        T* sum = static_cast<T*>(a.sum) + row * n;
        for_each_vector_from(0, n, [&](int64_t i, int lanes) {
          store_first(sum + i, load_first(x + i, lanes) + load_first(residual + i, lanes), lanes);
        });
        x = sum;  // rounded to T, as backward will find it
      }
      const RowStats stats = row_stats<Norm>(x, n, p.eps);
      if constexpr (Norm::kIsCentred) a.stats[row] = stats.mean + stats.rest;
      a.stats[(Norm::kIsCentred ? rows : 0) + row] = stats.rstd;
      normalise_row<Norm>(x, stats, weight.get(), bias.get(), n, static_cast<T*>(a.out) + row * n);
    }
  });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
