// conv_relu_maxpool by the direct kernels (common/conv_direct.cuh,
// common/conv_filter_gradient.cuh): one launch forward, three backward, and the convolution's
// output is never in memory.
//
// grad_x is a direct convolution too: of the masked gradient, which each block makes from grad and
// argmax on its way to shared memory, with the filters turned about.
#include "common/conv_direct.cuh"
#include "common/conv_filter_gradient.cuh"
#include "conv_relu_maxpool/conv_relu_maxpool_cuda.h"
#include "conv_relu_maxpool/pool_windows.cuh"

namespace fastmodel {
namespace {

constexpr const char* kOp = "conv_relu_maxpool";

// The maximum of each window of 2 x 2, after bias and ReLU, and its slot.
template <typename T>
struct PoolSink {
  T* out;
  uint8_t* argmax;
  const T* bias;
  int k, pp, pq;
  bool is_packed;

  __device__ __forceinline__ void take(int64_t n, int window_h, int window_w, int channel,
                                       float (&sums)[4][kThreadChannels]) const {
    float best[kThreadChannels] = {};
    int slots[kThreadChannels];
#pragma unroll
    for (int j = 0; j < kThreadChannels; ++j) {
      const float b = bias != nullptr && channel + j < k ? to_float(bias[channel + j]) : 0.0f;
      slots[j] = 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) take_maximum(sums[i][j] + b, i, best[j], slots[j]);
    }
    const int64_t at = ((n * pp + window_h) * pq + window_w) * k + channel;
    if (is_packed) {
      store_values(out + at, best);
    }
#pragma unroll
    for (int j = 0; j < kThreadChannels; ++j) {
      if (channel + j >= k) break;
      if (!is_packed) out[at + j] = rounded<T>(best[j]);
      argmax[at + j] = static_cast<uint8_t>(slots[j]);
    }
  }
};

// Every window that lives; grad and argmax are (N, PP, PQ, K).
template <typename T>
struct LiveWindows {
  PoolShape s;
  const T* grad;
  const uint8_t* argmax;

  __device__ __forceinline__ bool find(int64_t n, int h, int w, int k, float& g, int& p,
                                       int& q) const {
    const int64_t at = ((n * s.pp + h) * s.pq + w) * s.k + k;
    const int slot = argmax[at];
    g = to_float(grad[at]);
    p = h * s.stride_h - s.pad_h + slot / s.window_s,
    q = w * s.stride_w - s.pad_w + slot % s.window_s;
    return g != 0.0f && slot < s.dead();
  }
};

// The gradient of the convolution's output.
template <typename T>
struct UnpooledSource {
  PoolShape s;
  const T* grad;
  const uint8_t* argmax;

  __device__ __forceinline__ float value(int64_t n, int c, int h, int w) const {
    float gradient[1];
    pixel_gradient(s, grad, argmax, n, h, w, c, gradient);
    return gradient[0];
  }
  __host__ __device__ bool is_channels_innermost() const { return true; }
};

}  // namespace

bool conv_relu_maxpool_direct_fits_cuda(const ConvShape& shape, bool is_grad_x) {
  return direct_fits(is_grad_x ? direct_transposed(shape) : direct_shape(shape, true));
}

void conv_relu_maxpool_direct_forward_cuda(const ConvReluMaxpoolForwardCuda& a) {
  const ConvShape& shape = a.shape;
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    const ImageSource<T> source{static_cast<const T*>(a.x), a.x_stride};
    const PoolSink<T> sink{static_cast<T*>(a.out),
                           a.argmax,
                           static_cast<const T*>(a.bias),
                           static_cast<int>(shape.k),
                           static_cast<int>(shape.pp),
                           static_cast<int>(shape.pq),
                           shape.k % kThreadChannels == 0 && is_pack_aligned(a.out)};
    direct_convolution(kOp, direct_shape(shape, true), source, static_cast<const T*>(a.weight),
                       a.weight_stride, sink, a.stream);
  });
}

void conv_relu_maxpool_direct_backward_cuda(const ConvReluMaxpoolBackwardCuda& a) {
  const ConvShape& shape = a.shape;
  const PoolShape pool(shape);
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    const T* const grad = static_cast<const T*>(a.grad);
    if (a.grad_weight != nullptr || a.grad_bias != nullptr) {
      const LiveWindows<T> source{pool, grad, a.argmax};
      filter_gradient(kOp, filter_shape(shape, shape.pp, shape.pq), source,
                      static_cast<const T*>(a.x), a.x_stride, static_cast<T*>(a.grad_weight),
                      a.grad_weight_stride, static_cast<T*>(a.grad_bias), a.partial, a.splits,
                      a.stream);
    }
    if (a.grad_x == nullptr) return;
    const Strides& o = a.grad_x_stride;
    const bool is_packed = o.d1 == 1 && (o.d0 | o.d2 | o.d3 | shape.c) % kThreadChannels == 0 &&
                           is_pack_aligned(a.grad_x);
    const ImageSink<T, false> sink{static_cast<T*>(a.grad_x),
                                   o,
                                   nullptr,
                                   static_cast<int>(shape.c),
                                   static_cast<int>(shape.h),
                                   static_cast<int>(shape.w),
                                   is_packed};
    Strides stride = a.weight_stride;
    const T* const turned = transposed_filters(shape, static_cast<const T*>(a.weight), stride);
    direct_convolution(kOp, direct_transposed(shape), UnpooledSource<T>{pool, grad, a.argmax},
                       turned, stride, sink, a.stream);
  });
}

}  // namespace fastmodel
