// The norms' backward pass on the CPU: all gradients in one sweep over memory.
//
// FLOPs: 14 a value (layer norm), 10 (rms norm). Bytes, for b = 4 or 2 a value: grad and x are read
// and grad_x written, 3 b, and 4 b where a gradient comes in for a residual norm's sum; PyTorch
// reads and writes 3 b more to add that one. At 26 GB/s, 2048 rows of 768 float32 take at least
// 0.73 ms.
//
// A few rows at a time: first each row's sums, then grad_x of all of them while the parameters'
// gradients gather, loaded and stored once for all; the second look at the rows finds them in L1 or
// L2. Every thread has sums of its own for the parameters, in float32 over at most kRowsAtOnce rows
// and in float64 over these, put together in the threads' order: the same for each run of as many
// threads, however many rows there are.
#pragma once

#include <type_traits>
#include <vector>

#include "common/huge_pages.h"
#include "common/norm_rows.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Rows side by side, and rows whose parameters' gradients are summed in float32.
constexpr int kRowsBeside = 4;
constexpr int64_t kRowsAtOnce = 256;

// grad_x = scale * g - (offset + hat * slope), hat = (x - mean) * rstd.
struct RowLine {
  float mean, rstd, offset, slope;
};

template <typename T>
struct BackwardArrays {
  const T *grad, *grad_sum, *x;
  T* grad_x;
};

// The parameters' sums of one thread: weight's, then bias's.
struct ParameterSums {
  float *weight, *bias;
  double *weights, *biases;

  void clear(int64_t n) const {
    std::fill_n(weight, n, 0.0f);
    std::fill_n(bias, n, 0.0f);
  }
  void carry_over(int64_t n) const {
    for (int64_t i = 0; i < n; ++i) weights[i] += weight[i];
    for (int64_t i = 0; i < n; ++i) biases[i] += bias[i];
    clear(n);
  }
};

template <typename Norm, typename T>
FASTMODEL_INLINE RowLine row_line(const NormBackward& a, const T* grad, const T* x,
                                  const float* weight, int64_t row) {
  const int64_t n = a.problem.features, rows = a.problem.rows;
  const float mean = Norm::kIsCentred ? a.stats[row] : 0.0f;
  const float rstd = a.stats[(Norm::kIsCentred ? rows : 0) + row];
  const auto [total, product] = row_sums<2>(n, [&](int64_t i, int lanes, Vec* sums) {
    const Vec g = load_first(grad + i, lanes) * load_first(weight + i, lanes);
    Vec d = load_first(x + i, lanes);
    if constexpr (Norm::kIsCentred) {
      d -= mean;
      sums[0] += g;
    }
    sums[1] += g * d;  // lanes past the end have g = 0, and a finite d
  });
  const float share = rstd / static_cast<float>(n);
  return {mean, rstd, total * share, product * rstd * share};
}

// Rows [row, row + kRows): grad_x, and what they add to the parameters' gradients.
template <typename Norm, int kRows, bool kWantsParameters, typename T>
FASTMODEL_INLINE void backward_rows(const NormBackward& a, const BackwardArrays<T>& arrays,
                                    const float* weight, int64_t row, const ParameterSums& sums) {
  const int64_t n = a.problem.features;
  RowLine lines[kRows];
  for (int r = 0; r < kRows; ++r) {
    const int64_t at = (row + r) * n;
    lines[r] = row_line<Norm>(a, arrays.grad + at, arrays.x + at, weight, row + r);
  }
  for_each_vector_from(0, n, [&](int64_t i, int lanes) {
    const Vec w = load_first(weight + i, lanes);
    Vec of_weight = {}, of_bias = {};
    FASTMODEL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = (row + r) * n + i;
      const RowLine& line = lines[r];
      const Vec grad = load_first(arrays.grad + at, lanes);
      Vec d = load_first(arrays.x + at, lanes);
      if constexpr (Norm::kIsCentred) d -= line.mean;
      const Vec hat = d * line.rstd;
      if constexpr (kWantsParameters) {
        of_weight += grad * hat;
        if constexpr (Norm::kIsCentred) of_bias += grad;
      }
      if (arrays.grad_x == nullptr) continue;
      Vec grad_x = grad * w * line.rstd - (hat * line.slope + line.offset);
      if (arrays.grad_sum != nullptr) grad_x += load_first(arrays.grad_sum + at, lanes);
      store_first(arrays.grad_x + at, grad_x, lanes);
    }
    if constexpr (kWantsParameters) {
      store(sums.weight + i, load(sums.weight + i) + of_weight);
      if constexpr (Norm::kIsCentred) store(sums.bias + i, load(sums.bias + i) + of_bias);
    }
  });
}

template <typename Norm, bool kWantsParameters, typename T>
void norm_backward(const NormBackward& a) {
  const NormProblem& p = a.problem;
  const int64_t n = p.features, line = whole_lines(n);
  const Parameter weight(p.weight, n, 1.0f);
  const BackwardArrays<T> arrays{static_cast<const T*>(a.grad), static_cast<const T*>(a.grad_sum),
                                 static_cast<const T*>(a.x), static_cast<T*>(a.grad_x)};
  const int threads = norm_threads(p);
  const int64_t shares = std::clamp<int64_t>(p.rows, 1, threads);
  const Workspace memory(kWantsParameters ? 2 * shares * line : 0);
  std::vector<double> totals(kWantsParameters ? 2 * shares * n : 0);
  advise_huge_pages(a.grad_x, p.rows * n * sizeof(T));
  parallel_for(p.rows, threads, [&](int64_t begin, int64_t end, int share) {
    ParameterSums sums{};
    if constexpr (kWantsParameters) {
      float* own = memory.get() + 2 * share * line;
      double* wide = totals.data() + 2 * share * n;
      sums = {own, own + line, wide, wide + n};
      sums.clear(line);
    }
    for (int64_t chunk = begin; chunk < end; chunk += kRowsAtOnce) {
      const int64_t last = std::min(end, chunk + kRowsAtOnce);
      int64_t row = chunk;
      for (; row + kRowsBeside <= last; row += kRowsBeside) {
        backward_rows<Norm, kRowsBeside, kWantsParameters>(a, arrays, weight.get(), row, sums);
      }
      for (; row < last; ++row) {
        backward_rows<Norm, 1, kWantsParameters>(a, arrays, weight.get(), row, sums);
      }
      if constexpr (kWantsParameters) sums.carry_over(n);
    }
  });
  if constexpr (!kWantsParameters) return;
  const auto gather = [&](float* to, int64_t from) {
    if (to == nullptr) return;
    for (int64_t i = 0; i < n; ++i) {
      double total = 0.0;
      for (int64_t share = 0; share < shares; ++share) total += totals[2 * share * n + from + i];
      to[i] = static_cast<float>(total);
    }
  };
  gather(a.grad_weight, 0);
  gather(a.grad_bias, n);
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
