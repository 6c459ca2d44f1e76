// linear_relu: out[m][o] = relu(sum_i x[m][i] * weight[o][i] + bias[o]), everything row-major.
// Backward, with g = scale * grad where the output lives (not out <= 0) and 0 elsewhere (the scale
// is 1, and 1 / (1 - p) behind a dropout, which linear_relu_dropout has of its own):
//   grad_x[m][i] = sum_o g[m][o] * weight[o][i]
//   grad_weight[o][i] = sum_m g[m][o] * x[m][i]
//   grad_bias[o] = sum_m g[m][o]
#pragma once

#include <cstdint>

#include "common/capability.h"
#include "common/dtypes.h"

namespace fastmodel {

struct LinearReluForward {
  const void* x;       // (rows, in_features)
  const void* weight;  // (out_features, in_features)
  const void* bias;    // (out_features) or null
  void* out;           // (rows, out_features)
  int64_t rows, in_features, out_features;
  DType dtype;
  int threads;
};

struct LinearReluBackward {
  const void* grad;    // (rows, out_features)
  const void* x;       // (rows, in_features)
  const void* weight;  // (out_features, in_features)
  const void* out;     // (rows, out_features)
  float* masked;       // (rows, out_features) scratch
  void* grad_x;        // as x, or null if not wanted
  void* grad_weight;   // as weight, or null
  void* grad_bias;     // (out_features), or null
  int64_t rows, in_features, out_features;
  float scale;
  DType dtype;
  int threads;
};

// For a backward whose products are somebody else's: g and grad_bias in one pass.
struct LinearReluMask {
  const void* grad;  // (rows, out_features)
  const void* out;   // (rows, out_features)
  void* masked;      // (rows, out_features)
  void* grad_bias;   // (out_features), or null
  int64_t rows, out_features;
  float scale;
  DType dtype;
  int threads;
};

FASTMODEL_CPU_KERNEL(linear_relu_forward_cpu, LinearReluForward)
FASTMODEL_CPU_KERNEL(linear_relu_backward_cpu, LinearReluBackward)
FASTMODEL_CPU_KERNEL(linear_relu_mask_cpu, LinearReluMask)

}  // namespace fastmodel
