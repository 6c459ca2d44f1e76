// Arguments of the ops that are a linear layer and an elementwise activation:
//   pre[m][o] = sum_i x[m][i] * weight[o][i] + bias[o], out = activation(pre), everything
//   row-major.
// Backward reads `saved`: out where the activation's derivative follows from it (sigmoid, tanh),
// pre elsewhere (GELU, SiLU). With g = grad * derivative(saved):
//   grad_x[m][i] = sum_o g[m][o] * weight[o][i]
//   grad_weight[o][i] = sum_m g[m][o] * x[m][i]
//   grad_bias[o] = sum_m g[m][o]
#pragma once

#include <cstdint>

#include "common/dtypes.h"

namespace fastmodel {

struct LinearActivationForward {
  const void* x;       // (rows, in_features)
  const void* weight;  // (out_features, in_features)
  const void* bias;    // (out_features) or null
  void* out;           // (rows, out_features)
  void* pre;           // as out, or null if nobody wants it
  int64_t rows, in_features, out_features;
  DType dtype;
  int threads;
};

struct LinearActivationBackward {
  const void* grad;    // (rows, out_features)
  const void* x;       // (rows, in_features)
  const void* weight;  // (out_features, in_features)
  const void* saved;   // (rows, out_features)
  float* chained;      // (rows, out_features) scratch for g
  void* grad_x;        // as x, or null if not wanted
  void* grad_weight;   // as weight, or null
  void* grad_bias;     // (out_features), or null
  int64_t rows, in_features, out_features;
  DType dtype;
  int threads;
};

// For a forward whose product is somebody else's: out = activation(pre); both may be one.
struct LinearActivationApply {
  const void* pre;
  void* out;
  int64_t size;
  DType dtype;
  int threads;
};

// For a backward whose products are somebody else's: g and grad_bias in one pass.
struct LinearActivationChain {
  const void* grad;   // (rows, out_features)
  const void* saved;  // (rows, out_features)
  void* chained;      // (rows, out_features)
  void* grad_bias;    // (out_features), or null
  int64_t rows, out_features;
  DType dtype;
  int threads;
};

}  // namespace fastmodel
