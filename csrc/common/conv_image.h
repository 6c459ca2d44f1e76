// Images as the convolution kernels want them: float32, channels innermost, zero border included.
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "common/conv_shape.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// A filter seen from its top-left input pixel: `count` runs of `length` contiguous floats each.
// Without horizontal dilation one run is a whole filter row (S * C), else one tap (C).
struct Runs {
  int64_t count, length;
  std::vector<int64_t> offset;

  int64_t vectors() const { return (length + kLanes - 1) / kLanes; }
};

inline Runs filter_runs(const ConvShape& shape) {
  const int64_t row = shape.padded_w() * shape.c;
  Runs runs;
  const bool is_row = shape.dilation_w == 1;
  runs.length = is_row ? shape.s * shape.c : shape.c;
  for (int64_t r = 0; r < shape.r; ++r) {
    for (int64_t s = 0; s < (is_row ? 1 : shape.s); ++s) {
      runs.offset.push_back(r * shape.dilation_h * row + s * shape.dilation_w * shape.c);
    }
  }
  runs.count = static_cast<int64_t>(runs.offset.size());
  return runs;
}

// Offset of convolution pixel (p, q)'s patch within the padded image.
inline int64_t pixel_offset(const ConvShape& shape, int64_t p, int64_t q) {
  return (p * shape.stride_h * shape.padded_w() + q * shape.stride_w) * shape.c;
}

template <typename T>
bool is_padded_image(const ConvShape& shape, const Strides& stride) {
  return std::is_same<T, float>::value && shape.pad_h == 0 && shape.pad_w == 0 &&
         (stride.d1 == 1 || shape.c == 1) && (stride.d3 == shape.c || shape.w == 1) &&
         (stride.d2 == shape.w * shape.c || shape.h == 1);
}

// Reads images of a tensor (N, C, H, W) of any strides; converts only what is not already in form.
template <typename T>
class ImageReader {
 public:
  ImageReader(const T* x, const Strides& stride, const ConvShape& shape)
      : x_(x), stride_(stride), shape_(shape), is_direct_(is_padded_image<T>(shape, stride)) {}

  int64_t scratch_floats() const {
    return is_direct_ ? 0 : shape_.padded_h() * shape_.padded_w() * shape_.c;
  }

  // The padded image n where x holds it as it is, else null.
  const float* direct(int64_t n) const {
    if constexpr (std::is_same<T, float>::value) {
      if (is_direct_) return x_ + n * stride_.d0;
    }
    return nullptr;
  }

  // The padded image n; of it, rows [begin, end) are valid.
  const float* read(int64_t n, int64_t begin, int64_t end, float* scratch) const {
    if (is_direct_) return direct(n);
    const T* image = x_ + n * stride_.d0;
    const int64_t c = shape_.c, row = shape_.padded_w() * c;
    for (int64_t y = begin; y < end; ++y) {
      float* to = scratch + y * row;
      const int64_t h = y - shape_.pad_h;
      if (h < 0 || h >= shape_.h) {
        std::fill(to, to + row, 0.0f);
        continue;
      }
      std::fill(to, to + shape_.pad_w * c, 0.0f);
      std::fill(to + (shape_.pad_w + shape_.w) * c, to + row, 0.0f);
      copy_row(image + h * stride_.d2, to + shape_.pad_w * c);
    }
    return scratch;
  }

 private:
  void copy_row(const T* from, float* to) const {
    const int64_t c = shape_.c, w = shape_.w;
    if (stride_.d1 == 1 && stride_.d3 == c) {
      for (int64_t i = 0; i < w * c; ++i) to[i] = to_float(from[i]);
      return;
    }
    for (int64_t i = 0; i < c; ++i) {
      const T* plane = from + i * stride_.d1;
      for (int64_t j = 0; j < w; ++j) to[j * c + i] = to_float(plane[j * stride_.d3]);
    }
  }

  const T* x_;
  Strides stride_;
  ConvShape shape_;
  bool is_direct_;
};

// Writes gradients of images: gives out a zeroed padded image to add into, then stores its inside.
template <typename T>
class ImageWriter {
 public:
  ImageWriter(T* x, const Strides& stride, const ConvShape& shape)
      : x_(x), stride_(stride), shape_(shape), is_direct_(is_padded_image<T>(shape, stride)) {}

  bool is_wanted() const { return x_ != nullptr; }

  int64_t scratch_floats() const {
    return !is_wanted() || is_direct_ ? 0 : shape_.padded_h() * shape_.padded_w() * shape_.c;
  }

  // The padded image n where x holds it as it is, else null.
  float* direct(int64_t n) const {
    if constexpr (std::is_same<T, float>::value) {
      if (is_direct_ && is_wanted()) return x_ + n * stride_.d0;
    }
    return nullptr;
  }

  // The padded image n as it is.
  float* target(int64_t n, float* scratch) const { return is_direct_ ? direct(n) : scratch; }

  float* begin(int64_t n, float* scratch) const {
    float* image = target(n, scratch);
    std::fill(image, image + shape_.padded_h() * shape_.padded_w() * shape_.c, 0.0f);
    return image;
  }

  void finish(int64_t n, const float* scratch) const {
    if (is_direct_) return;
    const int64_t c = shape_.c, row = shape_.padded_w() * c;
    for (int64_t h = 0; h < shape_.h; ++h) {
      const float* from = scratch + (h + shape_.pad_h) * row + shape_.pad_w * c;
      T* to = x_ + n * stride_.d0 + h * stride_.d2;
      if (stride_.d1 == 1) {
        for (int64_t j = 0; j < shape_.w; ++j) {
          for (int64_t i = 0; i < c; ++i) from_float(from[j * c + i], to + j * stride_.d3 + i);
        }
      } else {
        for (int64_t i = 0; i < c; ++i) {
          for (int64_t j = 0; j < shape_.w; ++j) {
            from_float(from[j * c + i], to + i * stride_.d1 + j * stride_.d3);
          }
        }
      }
    }
  }

 private:
  T* x_;
  Strides stride_;
  ConvShape shape_;
  bool is_direct_;
};

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
