// Backward where pool windows overlap or reach over padding: a pixel's gradients from several
// windows are added up before anything is multiplied.
//
// Of a band of the convolution's rows the masked gradient is written into a scratch that stays in
// L2, and from there on every pixel is a window of its own (common/conv_backward.h). Of a window of
// 3 every 2 pixels at most one pixel in 4 has a gradient, and where values are random one in 6.
#pragma once

#include "common/conv_backward.h"
#include "common/workspace.h"
#include "conv_relu_maxpool/conv_relu_maxpool.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// The same convolution with every pixel a window of its own.
inline ConvShape unpooled(ConvShape shape) {
  shape.pool_r = shape.pool_s = shape.pool_stride_h = shape.pool_stride_w = 1;
  shape.pool_pad_h = shape.pool_pad_w = 0;
  shape.pp = shape.p;
  shape.pq = shape.q;
  return shape;
}

// The windows [begin, end) of `count` that cover a pixel along one axis.
struct Cover {
  int64_t begin, end;

  Cover(int64_t pixel, int64_t window, int64_t stride, int64_t pad, int64_t count) {
    const int64_t last = pixel + pad, first = last - window + 1;
    begin = first <= 0 ? 0 : (first + stride - 1) / stride;
    end = std::min(count, last / stride + 1);
  }
};

// A window that covers a pixel: where its gradients begin, and the slot that names the pixel.
struct Share {
  int64_t at;
  int32_t slot;
};

// The masked gradient of one pixel, K channels, and slots that are 0 where it has one. kCount is
// the number of windows that cover it, or 0 for any.
template <int kCount, typename T>
void merge_pixel(const Share* shares, int64_t count, int64_t channels, const T* grad,
                 const uint8_t* argmax, float* merged, uint8_t* slot) {
  for (int64_t k = 0; k < channels; k += kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, channels - k));
    Vec total = {};
    const auto add = [&](const Share& share) __attribute__((always_inline)) {
      const Vec g = load_first(grad + share.at + k, lanes);
      total += load_bytes(argmax + share.at + k, lanes) == share.slot ? g : Vec{};
    };
    FASTMODEL_UNROLL
    for (int i = 0; i < kCount; ++i) add(shares[i]);
    for (int64_t i = kCount; i < count; ++i) add(shares[i]);
    store_first(merged + k, total, lanes);
    store_bytes(slot + k, (total == 0.0f) & 1, lanes);
  }
}

// The masked gradient of convolution row p, (Q, K), with its slots. grad and argmax are the image's
// (PP, PQ, K) planes; shares has room for a window's size.
template <typename T>
void merge_row(const ConvShape& shape, int64_t p, const T* grad, const uint8_t* argmax,
               Share* shares, float* merged, uint8_t* slot) {
  const Cover rows(p, shape.pool_r, shape.pool_stride_h, shape.pool_pad_h, shape.pp);
  for (int64_t q = 0; q < shape.q; ++q, merged += shape.k, slot += shape.k) {
    const Cover columns(q, shape.pool_s, shape.pool_stride_w, shape.pool_pad_w, shape.pq);
    int64_t count = 0;
    for (int64_t pp = rows.begin; pp < rows.end; ++pp) {
      const int64_t r = p + shape.pool_pad_h - pp * shape.pool_stride_h;
      for (int64_t pq = columns.begin; pq < columns.end; ++pq) {
        const int64_t s = q + shape.pool_pad_w - pq * shape.pool_stride_w;
        shares[count++] = {(pp * shape.pq + pq) * shape.k,
                           static_cast<int32_t>(r * shape.pool_s + s)};
      }
    }
    const auto merge = [&](auto fixed) {
      merge_pixel<fixed()>(shares, count, shape.k, grad, argmax, merged, slot);
    };
    switch (count) {
      case 1:
        merge(std::integral_constant<int, 1>());
        break;
      case 2:
        merge(std::integral_constant<int, 2>());
        break;
      case 4:
        merge(std::integral_constant<int, 4>());
        break;
      default:
        merge(std::integral_constant<int, 0>());
    }
  }
}

template <typename T>
void band_backward(const ConvReluMaxpoolBackward& a) {
  const ConvShape& shape = a.shape;
  const ConvShape dense = unpooled(shape);
  const int64_t plane = shape.pp * shape.pq * shape.k;
  const int64_t row_size = shape.q * shape.k, rows = LiveGradients::band_rows(dense);
  const int shares = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(a.threads, shape.n)));
  const int64_t band_size = whole_lines(rows * row_size);
  const Workspace merged(band_size * shares);
  std::vector<Share> covering(shape.window() * shares);
  const std::unique_ptr<uint8_t[]> slots(new uint8_t[band_size * shares]);
  const ConvGradients<T> wanted{static_cast<T*>(a.grad_x), a.grad_x_stride,
                                static_cast<T*>(a.grad_weight), a.grad_weight_stride,
                                static_cast<T*>(a.grad_bias)};
  conv_gradients(
      static_cast<const T*>(a.x), a.x_stride, static_cast<const T*>(a.weight), a.weight_stride,
      dense, wanted, shares,
      [&](int64_t n, int thread, const float* image, float* grad_x, LiveGradients* gradients) {
        float* own = merged.get() + thread * band_size;
        uint8_t* slot = slots.get() + thread * band_size;
        for (int64_t row = 0; row < dense.pp; row += rows) {
          const int64_t end = std::min(dense.pp, row + rows);
          for (int64_t p = row; p < end; ++p) {
            merge_row(shape, p, static_cast<const T*>(a.grad) + n * plane, a.argmax + n * plane,
                      &covering[thread * shape.window()], own + (p - row) * row_size,
                      slot + (p - row) * row_size);
          }
          gradients->add_band(row, end, image, own, slot, grad_x);
        }
      });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
