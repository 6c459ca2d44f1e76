// batch_norm_relu: out = relu((x - mean) * scale + bias) with scale = weight / sqrt(var + eps), for
// images x[n][c][p] of `pixels` pixels p in either layout. In training, over the n = images *
// pixels values of each channel,
//   mean[c] = sum x / n, var[c] = sum (x - mean)^2 / n
// and in evaluation both are given. Backward, with g = grad where the output lives (not out <= 0,
// found again from x) and 0 elsewhere:
//   grad_bias[c] = sum g, grad_weight[c] = sum g * (x - mean) / sqrt(var + eps)
//   grad_x = scale * (g - sum g / n - (x - mean) * sum g * (x - mean) / (n * (var + eps)))
// in training; in evaluation grad_x = scale * g.
// batch_norm_relu_update: the running statistics, of which n / (n - 1) makes var an unbiased one:
//   running_mean = momentum * mean + (1 - momentum) * running_mean, running_var likewise
#pragma once

#include <cstdint>

#include "common/capability.h"
#include "common/dtypes.h"

namespace fastmodel {

struct BatchNormReluProblem {
  const void* x;
  const float* weight;  // (channels), or null for ones
  const float* bias;    // (channels), or null for zeros
  int64_t images;
  int64_t channels;
  int64_t pixels;
  bool is_channels_last;
  bool is_training;
  double eps;
  DType dtype;
  int threads;
};

struct BatchNormReluForward {
  BatchNormReluProblem problem;
  float* mean;  // (channels), written in training, else read
  float* var;   // (channels), likewise
  void* out;    // as x
};

struct BatchNormReluBackward {
  BatchNormReluProblem problem;
  const void* grad;    // as x
  const float* mean;   // (channels)
  const float* var;    // (channels)
  void* grad_x;        // as x, or null if not wanted
  float* grad_weight;  // (channels), or null if not wanted
  float* grad_bias;    // (channels), or null if not wanted
};

struct BatchNormReluUpdate {
  float* running_mean;  // (channels)
  float* running_var;   // (channels)
  const float* mean;    // (channels)
  const float* var;     // (channels)
  int64_t channels;
  int64_t count;  // values of a channel, at least 2
  double momentum;
};

FASTMODEL_CPU_KERNEL(batch_norm_relu_forward_cpu, BatchNormReluForward)
FASTMODEL_CPU_KERNEL(batch_norm_relu_backward_cpu, BatchNormReluBackward)
FASTMODEL_CPU_KERNEL(batch_norm_relu_update_cpu, BatchNormReluUpdate)

}  // namespace fastmodel
