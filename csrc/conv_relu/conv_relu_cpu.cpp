// conv_relu on the CPU: direct convolution with ReLU in its epilogue; backward with the mask on its
// way into L1 (common/conv_dense_backward.h).
//
// Forward computes a few neighbouring pixels of a row x a block of output channels in registers.
//
// FLOPs forward: 2 * N * P * Q * K * C * R * S. Bytes: x once, weight once, out once.
#include "common/conv_dense_backward.h"
#include "common/conv_forward.h"
#include "common/relu_mask.h"
#include "conv_relu/conv_relu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

template <int kVecs, typename T>
void forward(const ConvReluForward& a) {
  const ConvShape& shape = a.shape;
  const PackedFilters filters =
      pack_filters(static_cast<const T*>(a.weight), a.weight_stride, static_cast<const T*>(a.bias),
                   shape, kVecs, a.threads);
  const Runs runs = filter_runs(shape);
  const int64_t span = (shape.r - 1) * shape.dilation_h + 1;
  const int64_t step = shape.stride_w * shape.c;

  const auto row = [&](const float* image, int64_t n, int64_t p) {
    const float* line = image + pixel_offset(shape, p, 0);
    for (int64_t block = 0; block < filters.blocks; ++block) {
      const float* weight = filters.weight.get() + block * shape.patch() * filters.block;
      const float* bias = filters.bias.get() + block * filters.block;
      const int64_t first = block * filters.block;
      T* out = static_cast<T*>(a.out) + (n * shape.p + p) * shape.q * shape.k + first;
      const auto write = [&](int64_t q, const Vec* acc) {
        for (int v = 0; v < kVecs; ++v) {
          const int64_t left = shape.k - first - v * kLanes;
          if (left <= 0) break;
          store_first(out + q * shape.k + v * kLanes, relu(acc[v]),
                      static_cast<int>(std::min<int64_t>(kLanes, left)));
        }
      };
      int64_t q = 0;
      for (; q + kRowPixels <= shape.q; q += kRowPixels) {
        const float* pixel[kRowPixels];
        for (int i = 0; i < kRowPixels; ++i) pixel[i] = line + (q + i) * step;
        Vec acc[kRowPixels][kVecs];
        conv_tile<kRowPixels, kVecs>(pixel, runs, weight, bias, acc);
        for (int i = 0; i < kRowPixels; ++i) write(q + i, acc[i]);
      }
      for (; q + 2 <= shape.q; q += 2) {
        Vec acc[2][kVecs];
        conv_tile<2, kVecs>({line + q * step, line + (q + 1) * step}, runs, weight, bias, acc);
        write(q, acc[0]);
        write(q + 1, acc[1]);
      }
      for (; q < shape.q; ++q) {
        Vec acc[1][kVecs];
        conv_tile<1, kVecs>({line + q * step}, runs, weight, bias, acc);
        write(q, acc[0]);
      }
    }
  };
  for_each_row(static_cast<const T*>(a.x), a.x_stride, shape, shape.p, shape.stride_h, span,
               a.threads, row);
}

template <typename T>
void forward_of(const ConvReluForward& a) {
  switch (filter_vectors(a.shape.k)) {
    case 1:
      return forward<1, T>(a);
    case 2:
      return forward<2, T>(a);
    default:
      return forward<kMostVecs, T>(a);
  }
}

template <typename T>
void backward(const ConvReluBackward& a) {
  const DenseGradients<T> wanted{static_cast<const T*>(a.grad),
                                 static_cast<const T*>(a.out),
                                 static_cast<const T*>(a.x),
                                 a.x_stride,
                                 static_cast<const T*>(a.weight),
                                 a.weight_stride,
                                 static_cast<T*>(a.masked),
                                 static_cast<T*>(a.grad_x),
                                 a.grad_x_stride,
                                 static_cast<T*>(a.grad_weight),
                                 a.grad_weight_stride,
                                 static_cast<T*>(a.grad_bias)};
  dense_backward(wanted, a.shape, a.threads);
}

template <typename T>
void mask(const ConvReluMask& a) {
  relu_mask(static_cast<const T*>(a.grad), static_cast<const T*>(a.out), static_cast<T*>(a.masked),
            static_cast<T*>(a.grad_bias), a.rows, a.channels, a.threads);
}

}  // namespace

void conv_relu_forward_cpu(const ConvReluForward& args) {
  args.dtype == DType::kFloat32 ? forward_of<float>(args) : forward_of<BFloat16>(args);
}

void conv_relu_backward_cpu(const ConvReluBackward& args) {
  args.dtype == DType::kFloat32 ? backward<float>(args) : backward<BFloat16>(args);
}

void conv_relu_mask_cpu(const ConvReluMask& args) {
  args.dtype == DType::kFloat32 ? mask<float>(args) : mask<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
