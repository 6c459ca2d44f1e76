// A direct convolution for few channels, in float32: filters and pixels wait in shared memory, sums
// in registers. Both convolution ops use it, for their forward and, over the masked gradient, for
// grad_x.
//
// FLOPs: 2 N P Q K C R S. Bytes: every input element once for each 32 output channels and once more
// for the rim of a tile, every output element once. For a first layer (C = 1 or 3) those bytes are
// the floor; beyond that float32's own rate is, which tensor cores pass: a library's product is for
// the layers with many channels. A thread keeps 2 x 2 pixels of 8 output channels: 32 products for
// 2 16-byte loads of filters (the same address in all lanes of a warp) and at most 4 loads of
// pixels; with 3 x 3 filters of stride 1 16 loads of pixels serve all 9 taps.
//
// A Source gives the input: float value(n, c, h, w), 0 <= h < H, and a Sink takes the sums:
// take(n, window_h, window_w, channel, sums[2 * 2][8]), for channel .. channel + 7 and the 2 x 2
// pixels of the window, row by row, pixels beyond the image included.
#pragma once

#include <algorithm>

#include "common/conv_shape.h"
#include "common/values.cuh"

namespace fastmodel {

constexpr int kDirectThreads = 256;
constexpr int kTileWindows = 64;    // of a block; four threads share a window's channels
constexpr int kThreadChannels = 8;  // output channels of a thread
constexpr int kTileChannels = 4 * kThreadChannels;
// Of a tap's filters in shared memory: 16-byte loads stay aligned, and writes along the taps, which
// is how filters lie in memory, meet in a bank four by four instead of all at once.
constexpr int kFilterStride = kTileChannels + 4;
// What every launch may have, less the rounding between pixels and filters.
constexpr int64_t kMostSharedBytes = 48 * 1024 - 16;

// A convolution whose output is computed in windows of 2 x 2 pixels. All but n fit an int.
struct DirectShape {
  int64_t n;
  int c, h, w, k, r, s;
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int windows_h, windows_w, window_stride_h, window_stride_w;

  bool is_3x3() const {
    return r == 3 && s == 3 && stride_h == 1 && stride_w == 1 && dilation_h == 1 && dilation_w == 1;
  }
};

inline DirectShape direct_shape(const ConvShape& a, bool is_pooled) {
  const auto i = [](int64_t value) { return static_cast<int>(value); };
  DirectShape d{a.n,
                i(a.c),
                i(a.h),
                i(a.w),
                i(a.k),
                i(a.r),
                i(a.s),
                i(a.stride_h),
                i(a.stride_w),
                i(a.pad_h),
                i(a.pad_w),
                i(a.dilation_h),
                i(a.dilation_w),
                i(a.pp),
                i(a.pq),
                i(a.pool_stride_h),
                i(a.pool_stride_w)};
  if (!is_pooled) {
    d.windows_h = i((a.p + 1) / 2), d.windows_w = i((a.q + 1) / 2);
    d.window_stride_h = d.window_stride_w = 2;
  }
  return d;
}

// The same convolution's gradient of x, from that of its output: (N, K, P, Q) is the input, filters
// are turned about (the caller's strides do that). Stride 1 only.
inline DirectShape direct_transposed(const ConvShape& a) {
  const auto i = [](int64_t value) { return static_cast<int>(value); };
  return {a.n,
          i(a.k),
          i(a.p),
          i(a.q),
          i(a.c),
          i(a.r),
          i(a.s),
          1,
          1,
          i(a.dilation_h * (a.r - 1) - a.pad_h),
          i(a.dilation_w * (a.s - 1) - a.pad_w),
          i(a.dilation_h),
          i(a.dilation_w),
          i((a.h + 1) / 2),
          i((a.w + 1) / 2),
          2,
          2};
}

// What a block computes: windows_h x windows_w windows of `images` images, `channels` input
// channels at a time, from in_h x in_w pixels of each.
struct DirectTile {
  int images, windows_h, windows_w, tiles_h, tiles_w;
  int in_h, in_w, plane, channels;

  int64_t shared_floats(const DirectShape& d) const {
    return channels * (int64_t{images} * plane + int64_t{d.r} * d.s * kFilterStride);
  }
};

// The tile's shape; channels is 0 if not even one fits into shared memory. Small images share a
// block unless that would leave multiprocessors without one.
inline DirectTile direct_tile(const DirectShape& d, int multiprocessors) {
  const auto even_parts = [](int size, int most) {
    const int parts = (size + most - 1) / most;
    return (size + parts - 1) / parts;
  };
  DirectTile t{};
  t.windows_w = even_parts(d.windows_w, 8);
  t.windows_h = even_parts(d.windows_h, kTileWindows / t.windows_w);
  t.tiles_h = (d.windows_h + t.windows_h - 1) / t.windows_h;
  t.tiles_w = (d.windows_w + t.windows_w - 1) / t.windows_w;
  const int out_h = (t.windows_h - 1) * d.window_stride_h + 2;
  const int out_w = (t.windows_w - 1) * d.window_stride_w + 2;
  t.in_h = (out_h - 1) * d.stride_h + (d.r - 1) * d.dilation_h + 1;
  t.in_w = (out_w - 1) * d.stride_w + (d.s - 1) * d.dilation_w + 1;
  // Odd, so that neighbouring channels, which lie side by side in memory, go to different banks.
  t.plane = t.in_h * t.in_w | 1;
  t.images = t.tiles_h * t.tiles_w == 1 ? kTileWindows / (t.windows_h * t.windows_w) : 1;
  const int64_t blocks_k = ceil_div(d.k, kTileChannels);
  const int64_t most_floats = kMostSharedBytes / static_cast<int64_t>(sizeof(float));
  t.channels = 1;
  while (t.images > 1 && (ceil_div(d.n, t.images) * blocks_k < multiprocessors ||
                          t.shared_floats(d) > most_floats)) {
    --t.images;
  }
  const int64_t most = most_floats / t.shared_floats(d);
  t.channels = most == 0 ? 0 : even_parts(d.c, static_cast<int>(std::min<int64_t>(most, d.c)));
  return t;
}

// Does one input channel's tile fit into shared memory?
inline bool direct_fits(const DirectShape& d) { return direct_tile(d, 1).channels > 0; }

// x (N, C, H, W) of any strides.
template <typename T>
struct ImageSource {
  const T* x;
  Strides stride;

  __device__ __forceinline__ float value(int64_t n, int c, int h, int w) const {
    return to_float(x[n * stride.d0 + c * stride.d1 + h * stride.d2 + w * stride.d3]);
  }
  __host__ __device__ bool is_channels_innermost() const { return stride.d1 == 1; }
};

// Plain, or ReLU's, values to out (N, K, P, Q) of any strides.
template <typename T, bool kHasRelu>
struct ImageSink {
  T* out;
  Strides stride;
  const T* bias;  // or null
  int k, p, q;
  bool is_packed;  // channels innermost, whole packs, aligned

  __device__ __forceinline__ void take(int64_t n, int window_h, int window_w, int channel,
                                       float (&sums)[4][kThreadChannels]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int h = window_h * 2 + i / 2, w = window_w * 2 + i % 2;
      if (h >= p || w >= q) continue;
      T* const to = out + n * stride.d0 + channel * stride.d1 + h * stride.d2 + w * stride.d3;
#pragma unroll
      for (int j = 0; j < kThreadChannels; ++j) {
        if constexpr (kHasRelu) {
          const float b = bias != nullptr && channel + j < k ? to_float(bias[channel + j]) : 0.0f;
          sums[i][j] = relu(sums[i][j] + b);
        }
      }
      if (is_packed) {
        store_values(to, sums[i]);
        continue;
      }
#pragma unroll
      for (int j = 0; j < kThreadChannels; ++j) {
        if (channel + j < k) to[j * stride.d1] = rounded<T>(sums[i][j]);
      }
    }
  }
};

// grid: (tiles of images, tiles of output channels)
template <typename T, bool kIs3x3, typename Source, typename Sink>
__global__ void __launch_bounds__(kDirectThreads, 2)
    direct_kernel(DirectShape d, DirectTile t, Source source, const T* weight,
                  Strides weight_stride, Sink sink) {
  float* const pixels = dynamic_shared<float>();
  const int taps = d.r * d.s, image_pixels = t.in_h * t.in_w;
  const int pixels_count = t.channels * t.images * t.plane;
  float* const filters = pixels + (pixels_count + 3) / 4 * 4;

  const int tiles = t.tiles_h * t.tiles_w, tile = blockIdx.x % tiles;
  const int64_t first_n = int64_t{blockIdx.x / tiles} * t.images;
  const int first_window_h = tile / t.tiles_w * t.windows_h,
            first_window_w = tile % t.tiles_w * t.windows_w;
  const int first_h = first_window_h * d.window_stride_h * d.stride_h - d.pad_h;
  const int first_w = first_window_w * d.window_stride_w * d.stride_w - d.pad_w;
  const int first_k = blockIdx.y * kTileChannels;

  // A warp's lanes are windows side by side, all of the same output channels.
  const int slot = threadIdx.x % kTileWindows, group = threadIdx.x / kTileWindows;
  const int windows = t.windows_h * t.windows_w;
  const int image = slot / windows, window = slot % windows;
  const int window_h = window / t.windows_w, window_w = window % t.windows_w;
  const bool is_inside = image < t.images && first_n + image < d.n &&
                         first_window_h + window_h < d.windows_h &&
                         first_window_w + window_w < d.windows_w;
  const int own_pixel = window_h * d.window_stride_h * d.stride_h * t.in_w +
                        window_w * d.window_stride_w * d.stride_w;

  float sums[4][kThreadChannels] = {};
  for (int first_c = 0; first_c < d.c; first_c += t.channels) {
    const int channels = d.c - first_c < t.channels ? d.c - first_c : t.channels;
    sync_block();  // the last chunk is done with
    for (int e = threadIdx.x; e < channels * t.images * image_pixels; e += kDirectThreads) {
      const bool c_first = source.is_channels_innermost();
      const int rest = c_first ? e / channels : e;
      const int pixel = rest % image_pixels;
      const int i = c_first ? rest / image_pixels : rest / image_pixels % t.images;
      const int c = c_first ? e % channels : rest / image_pixels / t.images;
      const int h = first_h + pixel / t.in_w, w = first_w + pixel % t.in_w;
      const bool is_pixel = first_n + i < d.n && h >= 0 && h < d.h && w >= 0 && w < d.w;
      pixels[(c * t.images + i) * t.plane + pixel] =
          is_pixel ? source.value(first_n + i, first_c + c, h, w) : 0.0f;
    }
    for (int e = threadIdx.x; e < channels * taps * kTileChannels; e += kDirectThreads) {
      const int tap = e % taps, c = e / taps % channels, k = e / (taps * channels);
      const T* const filter =
          weight + (first_k + k) * weight_stride.d0 + (first_c + c) * weight_stride.d1;
      filters[(c * taps + tap) * kFilterStride + k] =
          first_k + k < d.k
              ? to_float(filter[tap / d.s * weight_stride.d2 + tap % d.s * weight_stride.d3])
              : 0.0f;
    }
    sync_block();
    if (!is_inside) continue;

    for (int c = 0; c < channels; ++c) {
      const float* const corner = pixels + (c * t.images + image) * t.plane + own_pixel;
      const float* filter = filters + c * taps * kFilterStride + group * kThreadChannels;
      const auto add_tap = [&](const float (&values)[4]) {
        float weights[kThreadChannels];
        load_values(filter, weights);
        filter += kFilterStride;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < kThreadChannels; ++j) sums[i][j] += values[i] * weights[j];
        }
      };
      if constexpr (kIs3x3) {
        float patch[4][4];
#pragma unroll
        for (int i = 0; i < 16; ++i) patch[i / 4][i % 4] = corner[i / 4 * t.in_w + i % 4];
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) {
          const int r = tap / 3, s = tap % 3;
          add_tap({patch[r][s], patch[r][s + 1], patch[r + 1][s], patch[r + 1][s + 1]});
        }
      } else {
        for (int r = 0; r < d.r; ++r) {
          const float* pixel = corner + r * d.dilation_h * t.in_w;
          for (int s = 0; s < d.s; ++s, pixel += d.dilation_w) {
            const float* const below = pixel + d.stride_h * t.in_w;
            add_tap({pixel[0], pixel[d.stride_w], below[0], below[d.stride_w]});
          }
        }
      }
    }
  }
  const int channel = first_k + group * kThreadChannels;
  if (!is_inside || channel >= d.k) return;
  sink.take(first_n + image, first_window_h + window_h, first_window_w + window_w, channel, sums);
}

template <typename T, typename Source, typename Sink>
void direct_convolution(const char* op, const DirectShape& d, const Source& source, const T* weight,
                        Strides weight_stride, const Sink& sink, Stream stream) {
  const DirectTile t = direct_tile(d, multiprocessors(op, stream));
  const dim3 grid(static_cast<unsigned>(ceil_div(d.n, t.images) * t.tiles_h * t.tiles_w),
                  static_cast<unsigned>(ceil_div(d.k, kTileChannels)));
  const size_t bytes = (t.shared_floats(d) + 3) * sizeof(float);
  const auto kernel =
      d.is_3x3() ? direct_kernel<T, true, Source, Sink> : direct_kernel<T, false, Source, Sink>;
  launch(op, kernel, grid, kDirectThreads, bytes, stream, d, t, source, weight, weight_stride,
         sink);
}

// The turned filters of direct_transposed: (c, k, r, s) is weight's (k, c, R - 1 - r, S - 1 - s).
template <typename T>
const T* transposed_filters(const ConvShape& a, const T* weight, Strides& stride) {
  const T* const last = weight + (a.r - 1) * stride.d2 + (a.s - 1) * stride.d3;
  stride = {stride.d1, stride.d0, -stride.d2, -stride.d3};
  return last;
}

}  // namespace fastmodel
