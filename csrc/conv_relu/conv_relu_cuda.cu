// The passes around a library's convolution: bias and ReLU behind it, ReLU's mask and the bias
// gradient before its gradients.
//
// Bytes of E elements of b bytes: epilogue 2 b E (PyTorch's bias and ReLU passes move 4 b E), mask
// 3 b E (PyTorch's mask and sum 4 b E). Both are bound by memory: a few operations an element.
#include "common/channel_sweep.cuh"
#include "common/partial_sums.cuh"
#include "conv_relu/conv_relu_cuda.h"

namespace fastmodel {
namespace {

constexpr const char* kOp = "conv_relu";
// Blocks that share the rows or planes of a pass without sums.
constexpr int64_t kMostSplits = 1024;
constexpr int64_t kElementsPerThread = 32;

template <typename T>
struct Epilogue {
  T* out;
  const T* bias;
  int64_t row_stride;  // of sweep_rows; 0: `row` is an offset already, of one channel's elements

  template <int kWidth>
  __device__ __forceinline__ void run(int64_t row, int64_t channel, float (&)[kWidth]) const {
    T* const p = out + (row_stride == 0 ? row : row * row_stride + channel);
    float values[kWidth];
    load_values(p, values);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float b = bias == nullptr ? 0.0f : to_float(bias[channel + (row_stride == 0 ? 0 : i)]);
      values[i] = relu(values[i] + b);
    }
    store_values(p, values);
  }
};

template <typename T>
struct Mask {
  const T* grad;
  const T* out;
  T* masked;
  int64_t row_stride;  // as in Epilogue

  template <int kWidth>
  __device__ __forceinline__ void run(int64_t row, int64_t channel, float (&sums)[kWidth]) const {
    const int64_t at = row_stride == 0 ? row : row * row_stride + channel;
    float grads[kWidth], outs[kWidth];
    load_values(grad + at, grads);
    load_values(out + at, outs);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      grads[i] = outs[i] <= 0.0f ? 0.0f : grads[i];
      sums[i] += grads[i];
    }
    if (masked != nullptr) store_values(masked + at, grads);
  }
};

template <bool kHasSums, int kWidth, typename Body>
void sweep(const ImageLayout& l, int64_t splits, const Body& body, float* partial, Stream stream) {
  if (l.is_channels_last) {
    sweep_rows<kWidth, kHasSums>(kOp, l.images * l.pixels, l.channels, splits, body, partial,
                                 stream);
  } else {
    sweep_planes<kWidth, kHasSums>(kOp, l.images, l.channels, l.pixels, splits, body, partial,
                                   stream);
  }
}

// Whole packs where the format's inner dimension and the addresses allow, else one element at a
// time.
template <typename T, bool kHasSums, typename Body>
void sweep_widest(const ImageLayout& l, int64_t splits, const Body& body, float* partial,
                  bool is_aligned, Stream stream) {
  constexpr int kPack = Pack<T>::kCount;
  if (is_aligned && (l.is_channels_last ? l.channels : l.pixels) % kPack == 0) {
    sweep<kHasSums, kPack>(l, splits, body, partial, stream);
  } else {
    sweep<kHasSums, 1>(l, splits, body, partial, stream);
  }
}

int64_t row_stride(const ImageLayout& l) { return l.is_channels_last ? l.channels : 0; }

}  // namespace

void conv_relu_epilogue_cuda(const ConvReluEpilogueCuda& a) {
  const ImageLayout& l = a.layout;
  const int64_t shared = l.images * l.pixels * (l.is_channels_last ? l.channels : 1);
  const int64_t splits =
      std::min(ceil_div(shared, kSweepThreads * kElementsPerThread), kMostSplits);
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    const Epilogue<T> body{static_cast<T*>(a.out), static_cast<const T*>(a.bias),
                           row_stride(a.layout)};
    sweep_widest<T, false>(a.layout, splits, body, nullptr, is_pack_aligned(a.out), a.stream);
  });
}

void conv_relu_mask_cuda(const ConvReluMaskCuda& a) {
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    const Mask<T> body{static_cast<const T*>(a.grad), static_cast<const T*>(a.out),
                       static_cast<T*>(a.masked), row_stride(a.layout)};
    const bool is_aligned =
        is_pack_aligned(a.grad) && is_pack_aligned(a.out) && is_pack_aligned(a.masked);
    sweep_widest<T, true>(a.layout, a.splits, body, a.partial, is_aligned, a.stream);
    if (a.grad_bias == nullptr) return;
    const GradientSums<T> sums{nullptr, {}, 1, 1, 1, 0, static_cast<T*>(a.grad_bias)};
    store_partial_sums(kOp, a.partial, a.splits, a.layout.channels, sums, a.stream);
  });
}

}  // namespace fastmodel
