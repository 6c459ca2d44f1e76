// conv_relu on NVIDIA GPUs: out = relu(conv(x, weight) + bias).
//
// Letters and sizes as in common/conv_shape.h; a null gradient is not wanted. Where a sum goes over
// many blocks, `partial` is float32 scratch of (splits, number of sums).
#pragma once

#include "common/conv_shape.h"
#include "common/cuda_stream.h"
#include "common/dtypes.h"

namespace fastmodel {

// Dense images (images, channels, pixels), or (images, pixels, channels) if channels are last.
struct ImageLayout {
  int64_t images, channels, pixels;
  bool is_channels_last;
};

// out = relu(out + bias) in place, behind somebody else's product; bias may be null.
struct ConvReluEpilogueCuda {
  ImageLayout layout;
  void* out;
  const void* bias;
  DType dtype;
  Stream stream;
};
void conv_relu_epilogue_cuda(const ConvReluEpilogueCuda& a);

// masked = grad where out is not <= 0, else 0; grad_bias = its sums. masked or grad_bias may be
// null.
struct ConvReluMaskCuda {
  ImageLayout layout;
  const void* grad;
  const void* out;
  void* masked;
  void* grad_bias;
  float* partial;
  int64_t splits;
  DType dtype;
  Stream stream;
};
void conv_relu_mask_cuda(const ConvReluMaskCuda& a);

// A whole convolution: x, weight and out of any strides; bias may be null.
struct ConvReluForwardCuda {
  ConvShape shape;
  const void* x;
  Strides x_stride;
  const void* weight;
  Strides weight_stride;
  const void* bias;
  void* out;
  Strides out_stride;
  DType dtype;
  Stream stream;
};
// Filters and pixels in shared memory, which must hold them: for few channels.
bool conv_relu_direct_fits_cuda(const ConvShape& shape);
void conv_relu_direct_forward_cuda(const ConvReluForwardCuda& a);
// On tensor cores: channels innermost in x, weight and out, and C a whole number of 16 bytes;
// float32 is rounded to tf32.
void conv_relu_gemm_forward_cuda(const ConvReluForwardCuda& a);
// A filter a channel: channels innermost in x and out.
void conv_relu_depthwise_forward_cuda(const ConvReluForwardCuda& a);

// grad and out have channels innermost.
struct ConvReluBackwardCuda {
  ConvShape shape;
  const void* grad;
  const void* out;
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
// grad_weight and grad_bias from the live pixels alone; never grad_x.
void conv_relu_direct_backward_cuda(const ConvReluBackwardCuda& a);
// Channels innermost in x and grad_x too.
void conv_relu_depthwise_backward_cuda(const ConvReluBackwardCuda& a);

}  // namespace fastmodel
