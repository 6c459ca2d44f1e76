// Windows of a max-pool over the convolution's output, channels innermost: which pixel each one
// chose, and what gradient a pixel gets back.
#pragma once

#include "common/conv_shape.h"
#include "common/values.cuh"

namespace fastmodel {

// Sizes that fit an int: an image has less than 2^31 elements.
struct PoolShape {
  int k, p, q, pp, pq;
  int window_r, window_s, stride_h, stride_w, pad_h, pad_w;

  explicit PoolShape(const ConvShape& a)
      : k(static_cast<int>(a.k)),
        p(static_cast<int>(a.p)),
        q(static_cast<int>(a.q)),
        pp(static_cast<int>(a.pp)),
        pq(static_cast<int>(a.pq)),
        window_r(static_cast<int>(a.pool_r)),
        window_s(static_cast<int>(a.pool_s)),
        stride_h(static_cast<int>(a.pool_stride_h)),
        stride_w(static_cast<int>(a.pool_stride_w)),
        pad_h(static_cast<int>(a.pool_pad_h)),
        pad_w(static_cast<int>(a.pool_pad_w)) {}

  // The argmax of a window whose maximum is not above 0.
  __device__ __forceinline__ int dead() const { return window_r * window_s; }
};

// A window's maximum so far, after ReLU (so it starts as 0 in the dead slot), takes one more pixel:
// the first of equal ones wins, and the last NaN.
__device__ __forceinline__ void take_maximum(float candidate, int at, float& best, int& slot) {
  if (candidate > best || candidate != candidate) best = candidate, slot = at;
}

// The first and last window along one axis that cover `position`; none if the first is the greater.
__device__ __forceinline__ void covering_windows(int position, int pad, int window, int stride,
                                                 int windows, int& first, int& last) {
  const int reach = position + pad - window + 1;
  first = reach <= 0 ? 0 : (reach + stride - 1) / stride;
  last = (position + pad) / stride;
  if (last >= windows) last = windows - 1;
}

// values[i] = the gradient of pixel (n, h, w), channel + i: the sum over the windows that chose it.
template <int kWidth, typename T>
__device__ __forceinline__ void pixel_gradient(const PoolShape& s, const T* grad,
                                               const uint8_t* argmax, int64_t n, int h, int w,
                                               int channel, float (&values)[kWidth]) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = 0.0f;
  int first_h, last_h, first_w, last_w;
  covering_windows(h, s.pad_h, s.window_r, s.stride_h, s.pp, first_h, last_h);
  covering_windows(w, s.pad_w, s.window_s, s.stride_w, s.pq, first_w, last_w);
  for (int pp = first_h; pp <= last_h; ++pp) {
    for (int pq = first_w; pq <= last_w; ++pq) {
      const int64_t at = ((n * s.pp + pp) * s.pq + pq) * s.k + channel;
      const int slot = (h + s.pad_h - pp * s.stride_h) * s.window_s + w + s.pad_w - pq * s.stride_w;
      float grads[kWidth];
      load_values(grad + at, grads);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if (argmax[at + i] == slot) values[i] += grads[i];
      }
    }
  }
}

}  // namespace fastmodel
