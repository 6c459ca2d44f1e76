// Arguments of the norms, over the rows of x[m][i] (m of `rows`, i of n = `features`):
//   layer norm: hat = (x - mean) * rstd, rstd[m] = 1 / sqrt(sum_i (x - mean)^2 / n + eps)
//   rms norm:   hat = x * rstd, rstd[m] = 1 / sqrt(sum_i x^2 / n + eps)
//   out = hat * weight[i] + bias[i]
// A residual norm takes sum = x + residual in the place of x, and returns it too.
// Backward, with g = grad * weight:
//   grad_x = rstd * (g - sum_i g / n - hat * sum_i g * hat / n) + grad_sum
//   grad_weight[i] = sum_m grad * hat, grad_bias[i] = sum_m grad
// where the rms norm has neither mean, bias nor the term sum_i g / n, and grad_sum is what comes in
// for a residual norm's sum.
#pragma once

#include <cstdint>

#include "common/dtypes.h"

namespace fastmodel {

struct NormProblem {
  const float* weight;  // (features), or null for ones
  const float* bias;    // (features), or null for zeros; not for the rms norm
  int64_t rows, features;
  double eps;
  DType dtype;
  int threads;
};

struct NormForward {
  NormProblem problem;
  const void* x;         // (rows, features)
  const void* residual;  // as x, for a residual norm
  void* sum;             // as x, for a residual norm
  void* out;             // as x
  float* stats;          // (2, rows): mean and rstd; (1, rows) of the rms norm: rstd
};

struct NormBackward {
  NormProblem problem;
  const void* grad;      // as x
  const void* grad_sum;  // as x, or null for zeros
  const void* x;         // (rows, features), a residual norm's sum
  const float* stats;    // as forward left it
  void* grad_x;          // as x, or null if not wanted
  float* grad_weight;    // (features), or null if not wanted
  float* grad_bias;      // (features), or null if not wanted
};

}  // namespace fastmodel
