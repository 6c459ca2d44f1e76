// The passes around a library's convolution: bias, ReLU and max-pool behind it, the way back
// through pool and ReLU before its gradients.
//
// Bytes for E pixels of the convolution's output and W of the pool's, b an element: pool b E + (b +
// 1) W (PyTorch's bias, ReLU and pool passes move 5 b E + (b + 8) W), scatter (b + 1) W + b E
// (PyTorch's two backward passes and the sum 5 b E + (b + 8) W). Memory bound: a pixel takes a
// comparison, and in the scatter a look at each window that covers it, which its neighbours have
// brought into the cache.
#include "common/channel_sweep.cuh"
#include "common/partial_sums.cuh"
#include "conv_relu_maxpool/conv_relu_maxpool_cuda.h"
#include "conv_relu_maxpool/pool_windows.cuh"

namespace fastmodel {
namespace {

constexpr const char* kOp = "conv_relu_maxpool";
constexpr int64_t kMostSplits = 2048;

// Row `row` of images of height x width, without 64-bit divisions where they can be had.
__device__ __forceinline__ void split_row(int64_t row, int height, int width, int64_t& n, int& h,
                                          int& w) {
  if (row <= 0xFFFFFFFFu) {
    const uint32_t r = static_cast<uint32_t>(row), rest = r / width;
    w = static_cast<int>(r - rest * width), n = rest / height;
    h = static_cast<int>(rest % height);
    return;
  }
  w = static_cast<int>(row % width), h = static_cast<int>(row / width % height);
  n = row / width / height;
}

// Rows are the pool's pixels.
template <typename T>
struct Pool {
  PoolShape s;
  const T* dense;
  const T* bias;
  T* out;
  uint8_t* argmax;

  template <int kWidth>
  __device__ __forceinline__ void run(int64_t row, int64_t channel, float (&)[kWidth]) const {
    int64_t n;
    int pp, pq;
    split_row(row, s.pp, s.pq, n, pp, pq);
    float biases[kWidth] = {}, values[kWidth];
    if (bias != nullptr) load_values(bias + channel, biases);
    float best[kWidth] = {};
    int slots[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) slots[i] = s.dead();
    for (int r = 0; r < s.window_r; ++r) {
      const int h = pp * s.stride_h - s.pad_h + r;
      if (h < 0 || h >= s.p) continue;
      for (int c = 0; c < s.window_s; ++c) {
        const int w = pq * s.stride_w - s.pad_w + c;
        if (w < 0 || w >= s.q) continue;
        load_values(dense + ((n * s.p + h) * s.q + w) * s.k + channel, values);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          take_maximum(values[i] + biases[i], r * s.window_s + c, best[i], slots[i]);
        }
      }
    }
    const int64_t at = row * s.k + channel;
    store_values(out + at, best);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) argmax[at + i] = static_cast<uint8_t>(slots[i]);
  }
};

// Rows are the convolution's pixels; every one is written.
template <typename T>
struct Scatter {
  PoolShape s;
  const T* grad;
  const uint8_t* argmax;
  T* dense;

  template <int kWidth>
  __device__ __forceinline__ void run(int64_t row, int64_t channel, float (&sums)[kWidth]) const {
    int64_t n;
    int h, w;
    split_row(row, s.p, s.q, n, h, w);
    float values[kWidth];
    pixel_gradient(s, grad, argmax, n, h, w, static_cast<int>(channel), values);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sums[i] += values[i];
    if (dense != nullptr) store_values(dense + row * s.k + channel, values);
  }
};

}  // namespace

void conv_relu_maxpool_pool_cuda(const ConvReluMaxpoolPoolCuda& a) {
  const PoolShape s(a.shape);
  const int64_t rows = a.shape.n * s.pp * s.pq;
  const int64_t splits = std::min(ceil_div(rows * s.k, kSweepThreads * 16), kMostSplits);
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    constexpr int kPack = Pack<T>::kCount;
    const Pool<T> body{s, static_cast<const T*>(a.dense), static_cast<const T*>(a.bias),
                       static_cast<T*>(a.out), a.argmax};
    const bool is_packed = s.k % kPack == 0 && is_pack_aligned(a.dense) &&
                           is_pack_aligned(a.bias) && is_pack_aligned(a.out);
    const auto sweep =
        is_packed ? sweep_rows<kPack, false, Pool<T>> : sweep_rows<1, false, Pool<T>>;
    sweep(kOp, rows, s.k, splits, body, nullptr, a.stream);
  });
}

void conv_relu_maxpool_scatter_cuda(const ConvReluMaxpoolScatterCuda& a) {
  const PoolShape s(a.shape);
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    constexpr int kPack = Pack<T>::kCount;
    const Scatter<T> body{s, static_cast<const T*>(a.grad), a.argmax, static_cast<T*>(a.dense)};
    const bool is_packed = s.k % kPack == 0 && is_pack_aligned(a.grad) && is_pack_aligned(a.dense);
    const auto sweep =
        is_packed ? sweep_rows<kPack, true, Scatter<T>> : sweep_rows<1, true, Scatter<T>>;
    sweep(kOp, a.shape.n * s.p * s.q, s.k, a.splits, body, a.partial, a.stream);
    if (a.grad_bias == nullptr) return;
    const GradientSums<T> sums{nullptr, {}, 1, 1, 1, 0, static_cast<T*>(a.grad_bias)};
    store_partial_sums(kOp, a.partial, a.splits, s.k, sums, a.stream);
  });
}

}  // namespace fastmodel
