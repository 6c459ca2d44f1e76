// Sizes of a 2-D convolution with an optional max-pool behind it. Letters as everywhere in this
// project: N batch, C input channels, H W, K output channels, R S kernel, P Q convolution output;
// PP PQ pooled.
#pragma once

#include <array>
#include <cstdint>

namespace fastmodel {

struct ConvShape {
  int64_t n, c, h, w;
  int64_t k, r, s;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t p, q;
  int64_t pool_r, pool_s, pool_stride_h, pool_stride_w, pool_pad_h, pool_pad_w;
  int64_t pp, pq;

  // Pixels in a pool window; also the argmax code of a dead window, whose maximum is not above 0.
  int64_t window() const { return pool_r * pool_s; }
  // Does every window hold pixels of its own alone?
  bool is_tiled() const {
    return pool_r <= pool_stride_h && pool_s <= pool_stride_w && pool_pad_h == 0 && pool_pad_w == 0;
  }
  int64_t padded_h() const { return h + 2 * pad_h; }
  int64_t padded_w() const { return w + 2 * pad_w; }
  // Elements of one filter.
  int64_t patch() const { return c * r * s; }
};

// The part [begin_r, end_r) x [begin_s, end_s) of pooled pixel (pp, pq)'s window that lies on
// pixels of the convolution, not on the pool's padding; slot r * pool_s + s is pixel (h + r, w +
// s).
struct Window {
  int64_t h, w, begin_r, end_r, begin_s, end_s;

  Window(const ConvShape& shape, int64_t pp, int64_t pq)
      : h(pp * shape.pool_stride_h - shape.pool_pad_h),
        w(pq * shape.pool_stride_w - shape.pool_pad_w),
        begin_r(h < 0 ? -h : 0),
        end_r(h + shape.pool_r < shape.p ? shape.pool_r : shape.p - h),
        begin_s(w < 0 ? -w : 0),
        end_s(w + shape.pool_s < shape.q ? shape.pool_s : shape.q - w) {}
};

// Element strides of a 4-D tensor in the order of its dimensions.
struct Strides {
  int64_t d0, d1, d2, d3;
};

// As fastmodel/ops/conv.py passes them.
using ConvSizes = std::array<int64_t, 23>;
using StrideArray = std::array<int64_t, 4>;

inline ConvShape conv_shape(const ConvSizes& a) {
  return {a[0],  a[1],  a[2],  a[3],  a[4],  a[5],  a[6],  a[7],  a[8],  a[9],  a[10], a[11],
          a[12], a[13], a[14], a[15], a[16], a[17], a[18], a[19], a[20], a[21], a[22]};
}

inline Strides strides(const StrideArray& a) { return {a[0], a[1], a[2], a[3]}; }

}  // namespace fastmodel
