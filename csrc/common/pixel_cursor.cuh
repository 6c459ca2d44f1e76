// Walks over the pixels of a batch of images in equal steps, and over a filter's taps, without a
// division a step.
#pragma once

#include "common/cuda.cuh"

namespace fastmodel {

// Pixel (n, h, w) of images of `height` x `width`; starts at pixel `first`, advances by `step`.
class PixelCursor {
 public:
  int64_t n;
  int h, w;

  __device__ __forceinline__ PixelCursor(int64_t first, int64_t step, int height, int width)
      : n(first / (int64_t{height} * width)), height_(height), width_(width) {
    const int64_t image = int64_t{height} * width;
    h = static_cast<int>(first % image / width), w = static_cast<int>(first % width);
    step_n_ = step / image;
    step_h_ = static_cast<int>(step % image / width), step_w_ = static_cast<int>(step % width);
  }

  __device__ __forceinline__ void advance() {
    n += step_n_, h += step_h_, w += step_w_;
    if (w >= width_) w -= width_, ++h;
    if (h >= height_) h -= height_, ++n;
  }

 private:
  int height_, width_;
  int64_t step_n_;
  int step_h_, step_w_;
};

// A walk over the taps of a filter of `width` columns, from tap `first`, and the pixel under each,
// where the filter's corner lies on (corner_h, corner_w). It keeps no tap's place in a register
// beyond its turn.
class TapCursor {
 public:
  int h, w;

  __device__ __forceinline__ TapCursor(int first, int width, int corner_h, int corner_w,
                                       int dilation_h, int dilation_w)
      : h(corner_h + first / width * dilation_h),
        w(corner_w + first % width * dilation_w),
        column_(first % width),
        width_(width),
        dilation_h_(dilation_h),
        dilation_w_(dilation_w) {}

  __device__ __forceinline__ void advance() {
    w += dilation_w_;
    if (++column_ == width_) column_ = 0, w -= width_ * dilation_w_, h += dilation_h_;
  }

 private:
  int column_, width_, dilation_h_, dilation_w_;
};

}  // namespace fastmodel
