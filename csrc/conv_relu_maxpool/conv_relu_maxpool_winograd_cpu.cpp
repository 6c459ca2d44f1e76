// conv_relu_maxpool on the CPU for filters of 3 to 6 taps a side, stride 1 and 2 x 2 windows, by
// Winograd's F(2 x 2, 3 x 3): a tile's outputs are a window.
//
// Forward takes the window's maximum where the tile comes out of its inverse transform. Backward
// reads each pixel of the dense gradient from the pooled one and its slot: it is never written.
// FLOPs and bytes: common/winograd_convolution.h, common/winograd_gradient.h.
#include "common/winograd_gradient.h"
#include "common/winograd_pixels.h"
#include "conv_relu_maxpool/conv_relu_maxpool.h"
#include "conv_relu_maxpool/window_max.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

constexpr int32_t kDead = 4;

// A tile for each window.
TileGrid windows(const ConvShape& shape) { return {shape.n, shape.pp, shape.pq, 1, 1}; }

template <int kVecs, typename T>
bool forward(const ConvReluMaxpoolForward& a) {
  const ConvShape& shape = a.shape;
  const DensePixels<T> pixels(static_cast<const T*>(a.x), a.x_stride, shape.c, shape.h, shape.w);
  const WinogradFilters filters(static_cast<const T*>(a.weight), a.weight_stride,
                                {shape.r, shape.s}, shape.c, shape.k, kVecs, a.threads);
  const T* bias = static_cast<const T*>(a.bias);
  const TileGrid grid = windows(shape);
  const auto write = [&](const Tile& tile, int64_t k, const Vec(&y)[2][2], int lanes) {
    const Vec b = bias == nullptr ? Vec{} : load_first(bias + k, lanes);
    Vec window[4][1];
    FASTMODEL_UNROLL
    for (int i = 0; i < 4; ++i) window[i][0] = y[i / 2][i % 2] + b;
    WindowMax<1> best;
    best.take(window, 0);
    const int64_t at = ((tile.n * shape.pp + tile.p / 2) * shape.pq + tile.q / 2) * shape.k + k;
    best.write(0, kDead, static_cast<T*>(a.out) + at, a.argmax + at, lanes);
  };
  return winograd_convolution<kVecs>(pixels, filters, grid, shape.pad_h, shape.pad_w, a.threads,
                                     write);
}

template <int kVecs, typename T>
bool weight_gradient(const ConvReluMaxpoolBackward& a, const PoolGradientPixels<T>& gradients) {
  const ConvShape& shape = a.shape;
  const DensePixels<T> pixels(static_cast<const T*>(a.x), a.x_stride, shape.c, shape.h, shape.w);
  return winograd_weight_gradient<kVecs>(pixels, gradients, shape, windows(shape),
                                         static_cast<T*>(a.grad_weight), a.grad_weight_stride,
                                         static_cast<T*>(a.grad_bias), a.threads);
}

template <typename T>
bool backward(const ConvReluMaxpoolBackward& a) {
  const ConvShape& shape = a.shape;
  const PoolGradientPixels<T> gradients(static_cast<const T*>(a.grad), a.argmax, shape.k, shape.pp,
                                        shape.pq);
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

void conv_relu_maxpool_winograd_forward_cpu(const ConvReluMaxpoolForward& a) {
  *a.is_finite = with_vectors(a.shape.k, [&](auto vecs) {
    return a.dtype == DType::kFloat32 ? forward<vecs(), float>(a) : forward<vecs(), BFloat16>(a);
  });
}

void conv_relu_maxpool_winograd_backward_cpu(const ConvReluMaxpoolBackward& a) {
  *a.is_finite = a.dtype == DType::kFloat32 ? backward<float>(a) : backward<BFloat16>(a);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
