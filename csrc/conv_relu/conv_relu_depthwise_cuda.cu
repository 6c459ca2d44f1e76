// conv_relu with a filter of its own for each channel, channels innermost:
//   out[n][p][q][c] = relu(bias[c] + sum over r, s of weight[c][0][r][s] *
//                          x[n][p*u - pad + r*d][q*v - pad + s*d][c])
//
// FLOPs: 2 R S an output element; bytes, of b an element: b read and b written. At 3 x 3 that is
// 18 FLOPs for 8 bytes of float32, less than a GPU's balance: memory is the floor, and next to it
// the L1, from which every element of x is read R S times. So a thread computes kRun pixels side by
// side of one pack of channels: each tap's weights come from shared memory once for all of them.
// Backward reads grad and out in the place of x (the mask is taken on the way) for grad_x, and all
// three for grad_weight; PyTorch writes and reads the masked gradient besides.
#include "common/channel_sweep.cuh"
#include "common/partial_sums.cuh"
#include "common/pixel_cursor.cuh"
#include "conv_relu/conv_relu_cuda.h"

namespace fastmodel {
namespace {

constexpr const char* kOp = "conv_relu";
constexpr int kThreads = 256;
constexpr int kRun = 4;
// Taps whose gradients a thread of the weight's gradient holds: 9 taps x 8 channels are 72
// registers.
constexpr int kTaps = 9;

// Sizes that fit an int: an image has less than 2^31 elements.
struct Geometry {
  int64_t n;
  int c, h, w, r, s, p, q;
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;

  explicit Geometry(const ConvShape& a)
      : n(a.n),
        c(static_cast<int>(a.c)),
        h(static_cast<int>(a.h)),
        w(static_cast<int>(a.w)),
        r(static_cast<int>(a.r)),
        s(static_cast<int>(a.s)),
        p(static_cast<int>(a.p)),
        q(static_cast<int>(a.q)),
        stride_h(static_cast<int>(a.stride_h)),
        stride_w(static_cast<int>(a.stride_w)),
        pad_h(static_cast<int>(a.pad_h)),
        pad_w(static_cast<int>(a.pad_w)),
        dilation_h(static_cast<int>(a.dilation_h)),
        dilation_w(static_cast<int>(a.dilation_w)) {}
};

// A block's channels of the filters in shared memory as [tap][channel], float32.
template <typename T>
__device__ __forceinline__ const float* stage_filters(const Geometry& g, const T* weight,
                                                      Strides stride, int first_channel,
                                                      int channels) {
  float* const filters = dynamic_shared<float>();
  const int taps = g.r * g.s;
  for (int e = threadIdx.x; e < taps * channels; e += kThreads) {
    const int tap = e % taps, channel = first_channel + e / taps;
    filters[tap * channels + e / taps] =
        channel < g.c
            ? to_float(weight[channel * stride.d0 + tap / g.s * stride.d2 + tap % g.s * stride.d3])
            : 0.0f;
  }
  sync_block();
  return filters;
}

// grid: (tiles of channels, splits of the runs of pixels); x and out are (N, H, W, C) and (N, P, Q,
// C).
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    depthwise_forward_kernel(Geometry g, int lanes, const T* x, const T* weight,
                             Strides weight_stride, const T* bias, T* out) {
  const int lane = threadIdx.x % lanes, height = kThreads / lanes;
  const int tile_channels = lanes * kWidth, first_channel = blockIdx.x * tile_channels;
  const float* const filters =
      stage_filters(g, weight, weight_stride, first_channel, tile_channels);
  const int channel = first_channel + lane * kWidth;
  if (channel >= g.c) return;

  float biases[kWidth] = {};
  if (bias != nullptr) load_values(bias + channel, biases);
  const int runs = (g.q + kRun - 1) / kRun;
  const int64_t first = int64_t{blockIdx.y} * height + threadIdx.x / lanes;
  for (PixelCursor at(first, int64_t{gridDim.y} * height, g.p, runs); at.n < g.n; at.advance()) {
    const int first_q = at.w * kRun;
    float sums[kRun][kWidth];
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
#pragma unroll
      for (int v = 0; v < kWidth; ++v) sums[i][v] = biases[v];
    }
    for (int r = 0; r < g.r; ++r) {
      const int h = at.h * g.stride_h - g.pad_h + r * g.dilation_h;
      if (h < 0 || h >= g.h) continue;
      const T* const row = x + (at.n * g.h + h) * g.w * g.c + channel;
      for (int s = 0; s < g.s; ++s) {
        const float* const filter = filters + (r * g.s + s) * tile_channels + lane * kWidth;
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          const int w = (first_q + i) * g.stride_w - g.pad_w + s * g.dilation_w;
          if (first_q + i >= g.q || w < 0 || w >= g.w) continue;
          float pixels[kWidth];
          load_values(row + int64_t{w} * g.c, pixels);
#pragma unroll
          for (int v = 0; v < kWidth; ++v) sums[i][v] += pixels[v] * filter[v];
        }
      }
    }
    T* const to = out + ((at.n * g.p + at.h) * g.q + first_q) * g.c + channel;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (first_q + i >= g.q) break;
#pragma unroll
      for (int v = 0; v < kWidth; ++v) sums[i][v] = relu(sums[i][v]);
      store_values(to + int64_t{i} * g.c, sums[i]);
    }
  }
}

// The masked gradient of one pack.
template <typename T, int kWidth>
__device__ __forceinline__ void load_masked(const T* grad, const T* out, float (&masked)[kWidth]) {
  float outs[kWidth];
  load_values(grad, masked);
  load_values(out, outs);
#pragma unroll
  for (int v = 0; v < kWidth; ++v) masked[v] = outs[v] <= 0.0f ? 0.0f : masked[v];
}

// position = quotient * stride if it divides and lies in [0, size); else -1.
__device__ __forceinline__ int strided_source(int position, int stride, int size) {
  if (position < 0) return -1;
  const int quotient = stride == 1 ? position : position / stride;
  return quotient * stride == position && quotient < size ? quotient : -1;
}

// grad_x[n][h][w][c] = sum of masked[n][p][q][c] * weight[c][r][s] over p*u - pad + r*d = h, and w
// alike. grid as in forward, over runs of grad_x.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, kWidth == 1 ? 4 : 2)
    depthwise_grad_x_kernel(Geometry g, int lanes, const T* grad, const T* out, const T* weight,
                            Strides weight_stride, T* grad_x) {
  const int lane = threadIdx.x % lanes, height = kThreads / lanes;
  const int tile_channels = lanes * kWidth, first_channel = blockIdx.x * tile_channels;
  const float* const filters =
      stage_filters(g, weight, weight_stride, first_channel, tile_channels);
  const int channel = first_channel + lane * kWidth;
  if (channel >= g.c) return;

  const int runs = (g.w + kRun - 1) / kRun;
  const int64_t first = int64_t{blockIdx.y} * height + threadIdx.x / lanes;
  for (PixelCursor at(first, int64_t{gridDim.y} * height, g.h, runs); at.n < g.n; at.advance()) {
    const int first_w = at.w * kRun;
    float sums[kRun][kWidth] = {};
    for (int r = 0; r < g.r; ++r) {
      const int p = strided_source(at.h + g.pad_h - r * g.dilation_h, g.stride_h, g.p);
      if (p < 0) continue;
      const int64_t row = (at.n * g.p + p) * g.q * g.c + channel;
      for (int s = 0; s < g.s; ++s) {
        const float* const filter = filters + (r * g.s + s) * tile_channels + lane * kWidth;
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          const int q = strided_source(first_w + i + g.pad_w - s * g.dilation_w, g.stride_w, g.q);
          if (first_w + i >= g.w || q < 0) continue;
          float masked[kWidth];
          const int64_t pixel = row + int64_t{q} * g.c;
          load_masked(grad + pixel, out + pixel, masked);
#pragma unroll
          for (int v = 0; v < kWidth; ++v) sums[i][v] += masked[v] * filter[v];
        }
      }
    }
    T* const to = grad_x + ((at.n * g.h + at.h) * g.w + first_w) * g.c + channel;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (first_w + i < g.w) store_values(to + int64_t{i} * g.c, sums[i]);
    }
  }
}

// partial[split][c * R S + tap], and behind those partial[split][C R S + c] of the bias.
// grid: (tiles of channels, splits of the output's pixels, taps by kTaps). The loads of 9 taps are
// on their way together, so that one block of 8 warps keeps a multiprocessor's share of the memory
// busy: better than spills.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, kWidth == 8 ? 1 : 2)
    depthwise_grad_weight_kernel(Geometry g, int lanes, const T* grad, const T* out, const T* x,
                                 float* partial) {
  FASTMODEL_SHARED(float, tile, kThreads* kWidth);
  const int lane = threadIdx.x % lanes, height = kThreads / lanes, taps = g.r * g.s;
  const int first_tap = blockIdx.z * kTaps, first_channel = blockIdx.x * lanes * kWidth;
  const int channel = first_channel + lane * kWidth;
  float sums[kTaps][kWidth] = {}, bias_sums[kWidth] = {};
  if (channel < g.c) {
    const int64_t first = int64_t{blockIdx.y} * height + threadIdx.x / lanes;
    for (PixelCursor at(first, int64_t{gridDim.y} * height, g.p, g.q); at.n < g.n; at.advance()) {
      float masked[kWidth];
      const int64_t pixel = ((at.n * g.p + at.h) * g.q + at.w) * g.c + channel;
      load_masked(grad + pixel, out + pixel, masked);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) bias_sums[v] += masked[v];
      TapCursor tap(first_tap, g.s, at.h * g.stride_h - g.pad_h, at.w * g.stride_w - g.pad_w,
                    g.dilation_h, g.dilation_w);
#pragma unroll
      for (int t = 0; t < kTaps; ++t, tap.advance()) {
        const int h = tap.h, w = tap.w;
        if (first_tap + t >= taps || h < 0 || h >= g.h || w < 0 || w >= g.w) continue;
        float pixels[kWidth];
        load_values(x + ((at.n * g.h + h) * g.w + w) * g.c + channel, pixels);
#pragma unroll
        for (int v = 0; v < kWidth; ++v) {
          // A dead pixel adds nothing, whatever x holds there.
          if (masked[v] != 0.0f) sums[t][v] += masked[v] * pixels[v];
        }
      }
    }
  }

  const int64_t count = int64_t{g.c} * taps + g.c;
  float* const row = partial + blockIdx.y * count;
  const int own = threadIdx.x, own_channel = first_channel + own;
  const auto store = [&](const float (&values)[kWidth], int64_t at) {
#pragma unroll
    for (int v = 0; v < kWidth; ++v) tile[threadIdx.x * kWidth + v] = values[v];
    sync_block();
    if (own < lanes * kWidth && own_channel < g.c) {
      float total = 0.0f;
      for (int d = 0; d < height; ++d) total += tile[d * lanes * kWidth + own];
      row[at] = total;
    }
    sync_block();
  };
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    if (first_tap + t < taps) store(sums[t], int64_t{own_channel} * taps + first_tap + t);
  }
  if (first_tap == 0) store(bias_sums, int64_t{g.c} * taps + own_channel);
}

// Blocks that share a tile's runs: a few for every multiprocessor.
template <int kWidth>
dim3 run_grid(const RowTile<kWidth>& tile, const Geometry& g, int64_t rows, int width,
              Stream stream) {
  const int64_t runs = rows * ((width + kRun - 1) / kRun);
  const unsigned tiles = tile.tiles(g.c);
  const int64_t most = ceil_div(int64_t{multiprocessors(kOp, stream)} * 16, tiles);
  const int64_t splits =
      std::min(ceil_div(runs, kThreads / tile.lanes), std::min(most, int64_t{65535}));
  return dim3(tiles, static_cast<unsigned>(splits));
}

template <int kWidth>
size_t filter_bytes(const RowTile<kWidth>& tile, const Geometry& g) {
  return sizeof(float) * g.r * g.s * tile.lanes * kWidth;
}

template <typename T, int kWidth>
void forward(const ConvReluForwardCuda& a) {
  const Geometry g(a.shape);
  const RowTile<kWidth> tile(g.c);
  launch(kOp, depthwise_forward_kernel<T, kWidth>, run_grid(tile, g, g.n * g.p, g.q, a.stream),
         kThreads, filter_bytes(tile, g), a.stream, g, tile.lanes, static_cast<const T*>(a.x),
         static_cast<const T*>(a.weight), a.weight_stride, static_cast<const T*>(a.bias),
         static_cast<T*>(a.out));
}

template <typename T, int kWidth>
void backward(const ConvReluBackwardCuda& a) {
  const Geometry g(a.shape);
  const RowTile<kWidth> tile(g.c);
  const T* const grad = static_cast<const T*>(a.grad);
  const T* const out = static_cast<const T*>(a.out);
  if (a.grad_x != nullptr) {
    launch(kOp, depthwise_grad_x_kernel<T, kWidth>, run_grid(tile, g, g.n * g.h, g.w, a.stream),
           kThreads, filter_bytes(tile, g), a.stream, g, tile.lanes, grad, out,
           static_cast<const T*>(a.weight), a.weight_stride, static_cast<T*>(a.grad_x));
  }
  if (a.grad_weight == nullptr && a.grad_bias == nullptr) return;
  const int taps = g.r * g.s;
  const dim3 grid(tile.tiles(g.c), static_cast<unsigned>(a.splits),
                  static_cast<unsigned>(ceil_div(taps, kTaps)));
  launch(kOp, depthwise_grad_weight_kernel<T, kWidth>, grid, kThreads, 0, a.stream, g, tile.lanes,
         grad, out, static_cast<const T*>(a.x), a.partial);
  const int64_t weights = int64_t{g.c} * taps;
  const GradientSums<T> sums{
      static_cast<T*>(a.grad_weight), a.grad_weight_stride, 1, g.r, g.s, weights,
      static_cast<T*>(a.grad_bias)};
  store_partial_sums(kOp, a.partial, a.splits, weights + g.c, sums, a.stream);
}

// Whole packs of channels where their number and the addresses allow.
template <typename T>
bool is_packed(const ConvShape& shape, std::initializer_list<const void*> addresses) {
  bool is_aligned = shape.c % Pack<T>::kCount == 0;
  for (const void* p : addresses) is_aligned = is_aligned && is_pack_aligned(p);
  return is_aligned;
}

}  // namespace

void conv_relu_depthwise_forward_cuda(const ConvReluForwardCuda& a) {
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    is_packed<T>(a.shape, {a.x, a.bias, a.out}) ? forward<T, Pack<T>::kCount>(a) : forward<T, 1>(a);
  });
}

void conv_relu_depthwise_backward_cuda(const ConvReluBackwardCuda& a) {
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    is_packed<T>(a.shape, {a.grad, a.out, a.x, a.grad_x}) ? backward<T, Pack<T>::kCount>(a)
                                                          : backward<T, 1>(a);
  });
}

}  // namespace fastmodel
