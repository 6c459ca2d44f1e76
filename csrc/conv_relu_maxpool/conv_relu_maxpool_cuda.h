// conv_relu_maxpool on NVIDIA GPUs; out, argmax and their gradients as in conv_relu_maxpool.h:
// channels innermost. A null gradient is not wanted. Where a sum goes over many blocks, `partial`
// is float32 scratch of (splits, number of sums).
#pragma once

#include "common/conv_shape.h"
#include "common/cuda_stream.h"
#include "common/dtypes.h"

namespace fastmodel {

// Do the direct kernels' tiles fit into shared memory: forward's, or those of grad_x (stride 1
// alone)?
bool conv_relu_maxpool_direct_fits_cuda(const ConvShape& shape, bool is_grad_x);

// The whole op, for windows of 2 x 2 that do not overlap and few channels; x and weight of any
// strides.
struct ConvReluMaxpoolForwardCuda {
  ConvShape shape;
  const void* x;
  Strides x_stride;
  const void* weight;
  Strides weight_stride;
  const void* bias;  // or null
  void* out;
  uint8_t* argmax;
  DType dtype;
  Stream stream;
};
void conv_relu_maxpool_direct_forward_cuda(const ConvReluMaxpoolForwardCuda& a);

// All gradients, for few channels; grad_x at stride 1 alone.
struct ConvReluMaxpoolBackwardCuda {
  ConvShape shape;
  const void* grad;
  const uint8_t* argmax;
  const void* x;
  Strides x_stride;
  const void* weight;
  Strides weight_stride;
  void* grad_x;
  Strides grad_x_stride;
  void* grad_weight;
  Strides grad_weight_stride;
  void* grad_bias;
  float* partial;
  int64_t splits;
  DType dtype;
  Stream stream;
};
void conv_relu_maxpool_direct_backward_cuda(const ConvReluMaxpoolBackwardCuda& a);

// out and argmax from somebody else's convolution without bias, dense (N, P, Q, K).
struct ConvReluMaxpoolPoolCuda {
  ConvShape shape;
  const void* dense;
  const void* bias;  // or null
  void* out;
  uint8_t* argmax;
  DType dtype;
  Stream stream;
};
void conv_relu_maxpool_pool_cuda(const ConvReluMaxpoolPoolCuda& a);

// The gradient of the convolution's output, dense (N, P, Q, K), and of the bias, from that of out.
struct ConvReluMaxpoolScatterCuda {
  ConvShape shape;
  const void* grad;
  const uint8_t* argmax;
  void* dense;
  void* grad_bias;
  float* partial;
  int64_t splits;
  DType dtype;
  Stream stream;
};
void conv_relu_maxpool_scatter_cuda(const ConvReluMaxpoolScatterCuda& a);

}  // namespace fastmodel
