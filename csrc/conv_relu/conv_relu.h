// conv_relu: out = relu(conv(x, weight) + bias).
//
// out and its gradient have channels innermost, (N, P, Q, K); x, weight and their gradients any
// strides; for the depthwise kernels (K == C, weight (C, 1, R, S)) x and its gradient have channels
// innermost too. In the shape, the pool is 1 x 1.
#pragma once

#include "common/capability.h"
#include "common/conv_shape.h"
#include "common/dtypes.h"

namespace fastmodel {

struct ConvReluForward {
  ConvShape shape;
  const void* x;
  Strides x_stride;
  const void* weight;
  Strides weight_stride;
  const void* bias;  // or null
  void* out;
  DType dtype;
  int threads;
  bool* is_finite = nullptr;  // set by the Winograd kernels: was all that they wrote finite?
};

struct ConvReluBackward {
  ConvShape shape;
  const void* grad;  // as out
  const void* out;
  const void* x;
  Strides x_stride;
  const void* weight;
  Strides weight_stride;
  void* grad_x;  // null for each gradient that is not wanted
  Strides grad_x_stride;
  void* grad_weight;
  Strides grad_weight_stride;
  void* grad_bias;
  DType dtype;
  int threads;
  bool* is_finite = nullptr;  // set by the Winograd kernels: was all that they wrote finite?
  // As out, or null: the masked gradient, for somebody else to compute grad_x from.
  void* masked = nullptr;
};

// For a backward whose products are all somebody else's: masks the gradient and sums the bias
// gradient in one pass. All are (rows, channels), row-major.
struct ConvReluMask {
  const void* grad;
  const void* out;
  void* masked;
  void* grad_bias;  // or null
  int64_t rows, channels;
  DType dtype;
  int threads;
};

FASTMODEL_CPU_KERNEL(conv_relu_forward_cpu, ConvReluForward)
FASTMODEL_CPU_KERNEL(conv_relu_backward_cpu, ConvReluBackward)
FASTMODEL_CPU_KERNEL(conv_relu_depthwise_forward_cpu, ConvReluForward)
FASTMODEL_CPU_KERNEL(conv_relu_depthwise_backward_cpu, ConvReluBackward)
FASTMODEL_CPU_KERNEL(conv_relu_winograd_forward_cpu, ConvReluForward)
FASTMODEL_CPU_KERNEL(conv_relu_winograd_backward_cpu, ConvReluBackward)
FASTMODEL_CPU_KERNEL(conv_relu_mask_cpu, ConvReluMask)

}  // namespace fastmodel
