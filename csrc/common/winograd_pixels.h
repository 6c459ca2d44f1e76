// What the Winograd products read: pixels of an image, or of a gradient that an activation or a
// pool masks.
//
// A source's at(n, y, x) is a handle on that pixel's channels, which read as 0 outside of the
// image; its load(c, lanes) gives lanes channels from c on.
#pragma once

#include <vector>

#include "common/conv_shape.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Images with channels innermost; any strides between pixels.
template <typename T>
class DensePixels {
 public:
  struct Pixel {
    const T* at;

    FASTMODEL_INLINE Vec load(int64_t c, int lanes) const { return load_first(at + c, lanes); }
  };

  DensePixels(const T* x, const Strides& stride, int64_t channels, int64_t h, int64_t w)
      : x_(x), stride_(stride), h_(h), w_(w), zeros_(channels) {}

  Pixel at(int64_t n, int64_t y, int64_t x) const {
    if (y < 0 || y >= h_ || x < 0 || x >= w_) return {zeros_.data()};
    return {x_ + n * stride_.d0 + y * stride_.d2 + x * stride_.d3};
  }

 private:
  const T* x_;
  Strides stride_;
  int64_t h_, w_;
  std::vector<T> zeros_;
};

// The gradient of relu's input: grad where out is alive. Both are (N, H, W, channels).
template <typename T>
class ReluGradientPixels {
 public:
  struct Pixel {
    const T *grad, *out;

    FASTMODEL_INLINE Vec load(int64_t c, int lanes) const {
      const Vec y = load_first(out + c, lanes);
      return y <= 0.0f ? Vec{} : load_first(grad + c, lanes);
    }
  };

  ReluGradientPixels(const T* grad, const T* out, int64_t channels, int64_t h, int64_t w)
      : grad_(grad), out_(out), channels_(channels), h_(h), w_(w), zeros_(channels) {}

  Pixel at(int64_t n, int64_t y, int64_t x) const {
    if (y < 0 || y >= h_ || x < 0 || x >= w_) return {zeros_.data(), zeros_.data()};
    const int64_t offset = ((n * h_ + y) * w_ + x) * channels_;
    return {grad_ + offset, out_ + offset};
  }

 private:
  const T *grad_, *out_;
  int64_t channels_, h_, w_;
  std::vector<T> zeros_;
};

// The gradient of the input of relu and a 2 x 2 max-pool: a window's gradient at its slot. grad and
// slot are (N, rows, cols, channels).
template <typename T>
class PoolGradientPixels {
 public:
  struct Pixel {
    const T* grad;
    const uint8_t* slot;
    int32_t position;

    FASTMODEL_INLINE Vec load(int64_t c, int lanes) const {
      const IVec here = load_bytes(slot + c, lanes);
      return here == position ? load_first(grad + c, lanes) : Vec{};
    }
  };

  PoolGradientPixels(const T* grad, const uint8_t* slot, int64_t channels, int64_t rows,
                     int64_t cols)
      : grad_(grad), slot_(slot), channels_(channels), rows_(rows), cols_(cols) {}

  Pixel at(int64_t n, int64_t y, int64_t x) const {
    if (y < 0 || y >= 2 * rows_ || x < 0 || x >= 2 * cols_) return {grad_, slot_, kNowhere};
    const int64_t offset = ((n * rows_ + y / 2) * cols_ + x / 2) * channels_;
    return {grad_ + offset, slot_ + offset, static_cast<int32_t>(y % 2 * 2 + x % 2)};
  }

 private:
  static constexpr int32_t kNowhere = 256;  // no slot's value

  const T* grad_;
  const uint8_t* slot_;
  int64_t channels_, rows_, cols_;
};

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
