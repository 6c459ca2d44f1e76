// linear: out[m][o] = sum_i x[m][i] * weight[o][i] + bias[o], everything row-major. Backward:
//   grad_x[m][i] = sum_o grad[m][o] * weight[o][i]
//   grad_weight[o][i] = sum_m grad[m][o] * x[m][i]
//   grad_bias[o] = sum_m grad[m][o]
#pragma once

#include <cstdint>

#include "common/capability.h"
#include "common/dtypes.h"

namespace fastmodel {

struct LinearForward {
  const void* x;       // (rows, in_features)
  const void* weight;  // (out_features, in_features)
  const void* bias;    // (out_features) or null
  void* out;           // (rows, out_features)
  int64_t rows, in_features, out_features;
  DType dtype;
  int threads;
};

struct LinearBackward {
  const void* grad;    // (rows, out_features)
  const void* x;       // (rows, in_features)
  const void* weight;  // (out_features, in_features)
  void* grad_x;        // as x, or null if not wanted
  void* grad_weight;   // as weight, or null
  void* grad_bias;     // (out_features), or null
  int64_t rows, in_features, out_features;
  DType dtype;
  int threads;
};

FASTMODEL_CPU_KERNEL(linear_forward_cpu, LinearForward)
FASTMODEL_CPU_KERNEL(linear_backward_cpu, LinearBackward)

}  // namespace fastmodel
