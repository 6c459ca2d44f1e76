// The gradients of a convolution's filters and bias over its live pixels alone:
//   grad_weight[k][c][r][s] = sum of g * x[n][c][p*u - pad + r*d][q*v - pad + s*d]
//   grad_bias[k] = sum of g
// over the pixels (n, p, q) of channel k whose gradient g comes through the ReLU (and the pool).
// Float32.
//
// FLOPs: 2 R S C for each live (pixel, channel): with a pool of 2 x 2 a quarter of the dense
// product's, which is why it is worth leaving to plain float32 for small layers. Bytes: the
// gradients once for every group of input channels, x from cache R S times. Lanes are output
// channels: their gradients lie side by side, and the pixels that they read are few (at most a
// window's), so that a warp's loads of x fall together.
//
// A Source lists items, (items_h, items_w) of them in each image:
// bool find(n, h, w, k, g, p, q) fills in the gradient and pixel of channel k, or says that it is
// dead.
#pragma once

#include "common/partial_sums.cuh"
#include "common/pixel_cursor.cuh"
#include "common/values.cuh"

namespace fastmodel {

constexpr int kFilterThreads = 256;
constexpr int kFilterWarps = kFilterThreads / kWarp;
// Taps whose gradients a thread holds: 9 taps x 8 channels are 72 registers.
constexpr int kFilterTaps = 9;

struct FilterShape {
  int64_t n;
  int c, h, w, k, r, s;
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int items_h, items_w;
};

inline FilterShape filter_shape(const ConvShape& a, int64_t items_h, int64_t items_w) {
  const auto i = [](int64_t value) { return static_cast<int>(value); };
  return {a.n,        i(a.c),          i(a.h),          i(a.w),        i(a.k),
          i(a.r),     i(a.s),          i(a.stride_h),   i(a.stride_w), i(a.pad_h),
          i(a.pad_w), i(a.dilation_h), i(a.dilation_w), i(items_h),    i(items_w)};
}

// partial[split] = the (K, C, R, S) gradients and K of the bias.
// grid: (splits of the items, groups of channels, taps by kFilterTaps); a group is 32 output
// channels, `sides` times kWidth input channels: a power of two of warps side by side, the others
// share the items.
template <typename T, int kWidth, typename Source>
__global__ void __launch_bounds__(kFilterThreads)
    filter_gradient_kernel(FilterShape f, int sides, Source source, const T* x, Strides stride,
                           float* partial) {
  FASTMODEL_SHARED(float, tile, kFilterThreads);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int shares = kFilterWarps / sides, taps = f.r * f.s, first_tap = blockIdx.z * kFilterTaps;
  const int groups_k = (f.k + kWarp - 1) / kWarp;
  const int k = blockIdx.y % groups_k * kWarp + lane;
  const int first_c = (blockIdx.y / groups_k * sides + warp % sides) * kWidth;

  float sums[kFilterTaps][kWidth] = {}, bias_sum = 0.0f;
  if (k < f.k && first_c < f.c) {
    const int64_t step = int64_t{gridDim.x} * shares;
    const int64_t first = int64_t{blockIdx.x} * shares + warp / sides;
    for (PixelCursor at(first, step, f.items_h, f.items_w); at.n < f.n; at.advance()) {
      float g;
      int p, q;
      if (!source.find(at.n, at.h, at.w, k, g, p, q)) continue;
      bias_sum += g;
      const T* const image = x + at.n * stride.d0 + first_c * stride.d1;
      TapCursor tap(first_tap, f.s, p * f.stride_h - f.pad_h, q * f.stride_w - f.pad_w,
                    f.dilation_h, f.dilation_w);
#pragma unroll
      for (int t = 0; t < kFilterTaps; ++t, tap.advance()) {
        const int h = tap.h, w = tap.w;
        if (first_tap + t >= taps || h < 0 || h >= f.h || w < 0 || w >= f.w) continue;
        float pixels[kWidth];
        load_values(image + h * stride.d2 + w * stride.d3, pixels);
#pragma unroll
        for (int v = 0; v < kWidth; ++v) sums[t][v] += g * pixels[v];
      }
    }
  }

  const int64_t weights = int64_t{f.k} * f.c * taps;
  float* const row = partial + blockIdx.x * (weights + f.k);
  // The warps that shared the items add up, in order; the first of them stores.
  const auto store = [&](float value, int64_t at, bool is_wanted) {
    if (shares > 1) {
      tile[threadIdx.x] = value;
      sync_block();
      value = 0.0f;
      for (int i = 0; i < shares; ++i) value += tile[(i * sides + warp % sides) * kWarp + lane];
      sync_block();
    }
    if (is_wanted && warp < sides && k < f.k && first_c < f.c) row[at] = value;
  };
#pragma unroll
  for (int t = 0; t < kFilterTaps; ++t) {
    if (first_tap + t >= taps) break;
#pragma unroll
    for (int v = 0; v < kWidth; ++v) {
      store(sums[t][v], (int64_t{k} * f.c + first_c + v) * taps + first_tap + t, true);
    }
  }
  if (first_tap == 0) store(bias_sum, weights + k, first_c == 0);
}

// grad_weight and grad_bias, either null if it is not wanted; partial is (splits, K C R S + K).
template <typename T, typename Source>
void filter_gradient(const char* op, const FilterShape& f, const Source& source, const T* x,
                     Strides stride, T* grad_weight, Strides grad_weight_stride, T* grad_bias,
                     float* partial, int64_t splits, Stream stream) {
  constexpr int kPack = Pack<T>::kCount;
  const auto is_whole = [](int64_t elements) { return elements % kPack == 0; };
  const bool is_packed = stride.d1 == 1 && is_whole(f.c) && is_whole(stride.d0) &&
                         is_whole(stride.d2) && is_whole(stride.d3) && is_pack_aligned(x);
  const int64_t groups_c = ceil_div(f.c, is_packed ? kPack : 1);
  int sides = 1;
  while (sides < kFilterWarps && sides < groups_c) sides *= 2;
  const int taps = f.r * f.s;
  const dim3 grid(static_cast<unsigned>(splits),
                  static_cast<unsigned>(ceil_div(f.k, kWarp) * ceil_div(groups_c, sides)),
                  static_cast<unsigned>(ceil_div(taps, kFilterTaps)));
  const auto kernel =
      is_packed ? filter_gradient_kernel<T, kPack, Source> : filter_gradient_kernel<T, 1, Source>;
  launch(op, kernel, grid, kFilterThreads, 0, stream, f, sides, source, x, stride, partial);

  const int64_t weights = int64_t{f.k} * f.c * taps;
  const GradientSums<T> sums{grad_weight, grad_weight_stride, f.c, f.r, f.s, weights, grad_bias};
  store_partial_sums(op, partial, splits, weights + f.k, sums, stream);
}

}  // namespace fastmodel
