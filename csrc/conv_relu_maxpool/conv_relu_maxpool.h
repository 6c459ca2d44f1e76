// conv_relu_maxpool: out = maxpool(relu(conv(x, weight) + bias)), with the argmax that backward
// needs.
//
// out[n][pp][pq][k] is the pooled value; argmax[n][pp][pq][k] is the first pixel of the window, row
// by row, that attains it (the last NaN, as in PyTorch), or window() if the value is 0: no gradient
// then flows. Both lie with channels innermost. x, weight and their gradients have any strides.
#pragma once

#include "common/capability.h"
#include "common/conv_shape.h"
#include "common/dtypes.h"

namespace fastmodel {

struct ConvReluMaxpoolForward {
  ConvShape shape;
  const void* x;
  Strides x_stride;
  const void* weight;
  Strides weight_stride;
  const void* bias;  // or null
  void* out;
  uint8_t* argmax;
  DType dtype;
  int threads;
  bool* is_finite = nullptr;  // set by the Winograd kernels: was all that they wrote finite?
};

struct ConvReluMaxpoolBackward {
  ConvShape shape;
  const void* grad;  // as out
  const uint8_t* argmax;
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
};

// For shapes whose convolution is better left to a library: its output, (N, P, Q, K), to out and
// argmax.
struct ConvReluMaxpoolPool {
  ConvShape shape;
  const void* dense;
  void* out;
  uint8_t* argmax;
  DType dtype;
  int threads;
};

// The gradient of the convolution's output, (N, P, Q, K), and of the bias, from that of out.
struct ConvReluMaxpoolScatter {
  ConvShape shape;
  const void* grad;
  const uint8_t* argmax;
  void* dense;
  void* grad_bias;  // or null
  DType dtype;
  int threads;
};

FASTMODEL_CPU_KERNEL(conv_relu_maxpool_forward_cpu, ConvReluMaxpoolForward)
FASTMODEL_CPU_KERNEL(conv_relu_maxpool_backward_cpu, ConvReluMaxpoolBackward)
FASTMODEL_CPU_KERNEL(conv_relu_maxpool_winograd_forward_cpu, ConvReluMaxpoolForward)
FASTMODEL_CPU_KERNEL(conv_relu_maxpool_winograd_backward_cpu, ConvReluMaxpoolBackward)
FASTMODEL_CPU_KERNEL(conv_relu_maxpool_pool_cpu, ConvReluMaxpoolPool)
FASTMODEL_CPU_KERNEL(conv_relu_maxpool_scatter_cpu, ConvReluMaxpoolScatter)

}  // namespace fastmodel
