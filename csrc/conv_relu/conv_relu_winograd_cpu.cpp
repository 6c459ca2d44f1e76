// conv_relu on the CPU for filters of 3 to 6 taps a side of stride 1 and any dilation, by
// Winograd's F(2 x 2, 3 x 3).
//
// Bias, ReLU and ReLU's mask are applied where a tile is written or read: no pass of their own.
// FLOPs and bytes: common/winograd_convolution.h, common/winograd_gradient.h.
#include "common/winograd_gradient.h"
#include "common/winograd_pixels.h"
#include "conv_relu/conv_relu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

TileGrid output_tiles(const ConvShape& shape) {
  return TileGrid::over(shape.n, shape.p, shape.q, shape.dilation_h, shape.dilation_w);
}

template <int kVecs, typename T>
bool forward(const ConvReluForward& a) {
  const ConvShape& shape = a.shape;
  const DensePixels<T> pixels(static_cast<const T*>(a.x), a.x_stride, shape.c, shape.h, shape.w);
  const WinogradFilters filters(static_cast<const T*>(a.weight), a.weight_stride,
                                {shape.r, shape.s}, shape.c, shape.k, kVecs, a.threads);
  const T* bias = static_cast<const T*>(a.bias);
  T* out = static_cast<T*>(a.out);
  const TileGrid grid = output_tiles(shape);
  const auto write = [&](const Tile& tile, int64_t k, const Vec(&y)[2][2], int lanes) {
    const Vec b = bias == nullptr ? Vec{} : load_first(bias + k, lanes);
    FASTMODEL_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int64_t p = tile.p + i / 2 * grid.step_h, q = tile.q + i % 2 * grid.step_w;
      if (p >= shape.p || q >= shape.q) continue;
      T* to = out + ((tile.n * shape.p + p) * shape.q + q) * shape.k + k;
      store_first(to, relu(y[i / 2][i % 2] + b), lanes);
    }
  };
  return winograd_convolution<kVecs>(pixels, filters, grid, shape.pad_h, shape.pad_w, a.threads,
                                     write);
}

template <int kVecs, typename T>
bool weight_gradient(const ConvReluBackward& a, const ReluGradientPixels<T>& gradients) {
  const ConvShape& shape = a.shape;
  const DensePixels<T> pixels(static_cast<const T*>(a.x), a.x_stride, shape.c, shape.h, shape.w);
  const TileGrid grid = output_tiles(shape);
  return winograd_weight_gradient<kVecs>(pixels, gradients, shape, grid,
                                         static_cast<T*>(a.grad_weight), a.grad_weight_stride,
                                         static_cast<T*>(a.grad_bias), a.threads);
}

template <typename T>
bool backward(const ConvReluBackward& a) {
  const ConvShape& shape = a.shape;
  const ReluGradientPixels<T> gradients(static_cast<const T*>(a.grad), static_cast<const T*>(a.out),
                                        shape.k, shape.p, shape.q);
  bool is_finite = true;
  if (a.grad_weight != nullptr || a.grad_bias != nullptr) {
    is_finite &=
        with_vectors(shape.k, [&](auto vecs) { return weight_gradient<vecs(), T>(a, gradients); });
  }
  if (a.grad_x != nullptr) {
    is_finite &= with_vectors(shape.c, [&](auto vecs) {
      return winograd_input_gradient<vecs(), T>(gradients, static_cast<const T*>(a.weight),
                                                a.weight_stride, shape, static_cast<T*>(a.grad_x),
                                                a.grad_x_stride, a.threads);
    });
  }
  return is_finite;
}

}  // namespace

void conv_relu_winograd_forward_cpu(const ConvReluForward& a) {
  *a.is_finite = with_vectors(a.shape.k, [&](auto vecs) {
    return a.dtype == DType::kFloat32 ? forward<vecs(), float>(a) : forward<vecs(), BFloat16>(a);
  });
}

void conv_relu_winograd_backward_cpu(const ConvReluBackward& a) {
  *a.is_finite = a.dtype == DType::kFloat32 ? backward<float>(a) : backward<BFloat16>(a);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
