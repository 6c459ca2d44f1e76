// Depthwise convolution with ReLU: every channel has a filter of its own (groups == C == K).
//
//   out[n][p][q][c] = relu(bias[c] + sum over r, s of x[n][y][j][c] * weight[c][r][s])
//       with y = p * stride - pad + r * dilation, j likewise
// All tensors have channels innermost; vectors go over channels. Forward and grad_x are the same
// loop over taps: a few pixels of a row share each filter vector in registers.
//
// FLOPs: 2 * N * P * Q * C * R * S for each product, less than 5 a byte: bound by memory. Bytes:
// forward x and out once; backward grad, out, x and grad_x once: the masked gradient lives in a
// ring of rows, with a border of zeros, so that no tap meets an edge.
#pragma once

#include <memory>
#include <vector>

#include "common/conv_shape.h"
#include "common/share_sums.h"
#include "common/threads.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

constexpr int kTapPixels = 4;
constexpr int kMostTaps = 9;  // accumulators of a grad_weight tile

// What one tap reads for a row's first pixel, and its filter vector; both at channel 0. In backward
// also where its gradient is summed.
template <typename T>
struct Tap {
  const T* from;
  const float* weight;
  float* sum;
};

// Division that rounds down; b > 0.
inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Fetches what is to be read soon into L2.
template <typename T>
void prefetch(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(T))) {
    __builtin_prefetch(from + i, 0, 2);
  }
}

// Between rows of channels: a vector more than the channels, for many a power of two of them would
// all fall into a few sets of L1.
inline int64_t channel_pitch(const ConvShape& shape) {
  return (shape.c + kLanes - 1) / kLanes * kLanes + kLanes;
}

// Filters as [tap][channel].
template <typename T>
std::unique_ptr<float[]> pack_taps(const T* weight, const Strides& stride, const ConvShape& shape) {
  const int64_t pitch = channel_pitch(shape);
  std::unique_ptr<float[]> packed(new float[shape.r * shape.s * pitch]);
  for (int64_t tap = 0; tap < shape.r * shape.s; ++tap) {
    const T* from = weight + tap / shape.s * stride.d2 + tap % shape.s * stride.d3;
    for (int64_t c = 0; c < shape.c; ++c) {
      packed[tap * pitch + c] = to_float(from[c * stride.d0]);
    }
  }
  return packed;
}

// write(pixel, channel, sum, lanes) of sum = start[channel] + sum over taps of weight * from, for
// kPixels pixels `step` elements apart, over all channels; start may be null.
template <int kPixels, typename T, typename Write>
void tap_pixels(const std::vector<Tap<T>>& taps, int64_t pixel, int64_t step, const float* start,
                int64_t channels, const Write& write) {
  const auto block = [&](int64_t c, auto full, int lanes) __attribute__((always_inline)) {
    const auto get = [&](const auto* p) __attribute__((always_inline)) {
      return full() ? load(p) : load_first(p, lanes);
    };
    const Vec first = start != nullptr ? get(start + c) : Vec{};
    Vec acc[kPixels];
    FASTMODEL_UNROLL
    for (int i = 0; i < kPixels; ++i) acc[i] = first;
    for (const Tap<T>& tap : taps) {
      const Vec w = get(tap.weight + c);
      const T* from = tap.from + pixel * step + c;
      FASTMODEL_UNROLL
      for (int i = 0; i < kPixels; ++i) acc[i] += get(from + i * step) * w;
    }
    FASTMODEL_UNROLL
    for (int i = 0; i < kPixels; ++i) write(pixel + i, c, acc[i], lanes);
  };
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) block(c, std::true_type(), kLanes);
  if (c < channels) block(c, std::false_type(), static_cast<int>(channels - c));
}

// The same for pixels [begin, end).
template <typename T, typename Write>
void tap_row(const std::vector<Tap<T>>& taps, int64_t begin, int64_t end, int64_t step,
             const float* start, int64_t channels, const Write& write) {
  for (; begin + kTapPixels <= end; begin += kTapPixels) {
    tap_pixels<kTapPixels>(taps, begin, step, start, channels, write);
  }
  for (; begin < end; ++begin) tap_pixels<1>(taps, begin, step, start, channels, write);
}

template <typename T>
void depthwise_forward(const T* x, const float* weight, const float* bias, T* out,
                       const ConvShape& shape, int threads) {
  const int64_t c = shape.c, step = shape.stride_w * c, pitch = channel_pitch(shape);
  // Output pixels of which no tap leaves the row.
  const int64_t reach = (shape.s - 1) * shape.dilation_w;
  const int64_t inner = std::min(shape.q, (shape.pad_w + shape.stride_w - 1) / shape.stride_w);
  const int64_t outer = std::max(
      inner, std::min(shape.q, floor_div(shape.w - 1 - reach + shape.pad_w, shape.stride_w) + 1));
  parallel_for(shape.n * shape.p, threads, [&](int64_t begin, int64_t end, int) {
    std::vector<Tap<T>> taps;
    for (int64_t row = begin; row < end; ++row) {
      const T* image = x + row / shape.p * shape.h * shape.w * c;
      const int64_t top = row % shape.p * shape.stride_h - shape.pad_h;
      T* to = out + row * shape.q * c;
      const auto write = [&](int64_t q, int64_t channel, Vec sum, int lanes) {
        store_first(to + q * c + channel, relu(sum), lanes);
      };
      // The taps of pixel q that lie within the image, from where pixel 0 would read them.
      const auto find_taps = [&](int64_t q) {
        taps.clear();
        for (int64_t r = 0; r < shape.r; ++r) {
          const int64_t y = top + r * shape.dilation_h;
          if (y < 0 || y >= shape.h) continue;
          for (int64_t s = 0; s < shape.s; ++s) {
            const int64_t left = s * shape.dilation_w - shape.pad_w;
            const int64_t j = left + q * shape.stride_w;
            if (j < 0 || j >= shape.w) continue;
            taps.push_back(
                {image + (y * shape.w + left) * c, weight + (r * shape.s + s) * pitch, nullptr});
          }
        }
      };
      for (int64_t q = 0; q < shape.q; ++q) {
        find_taps(q);
        const int64_t last = q == inner && inner < outer ? outer : q + 1;
        tap_row(taps, q, last, step, bias, c, write);
        q = last - 1;
      }
    }
  });
}

template <typename T>
struct DepthwiseGradients {
  const T* grad;  // as out
  const T* out;
  const T* x;
  const float* weight;  // packed taps
  T* grad_x;            // null for each result that is not wanted
  T* grad_weight;
  Strides grad_weight_stride;
  T* grad_bias;
};

// sums[tap] += sum over pixels of from[pixel] * x[pixel], at the first `lanes` channels.
template <int kTaps, bool kIsFull, typename T>
void tap_gradient(const Tap<float>* taps, int64_t pixels, int64_t step, const T* x, int64_t x_step,
                  int64_t c, int lanes) {
  const auto get = [&](const auto* p) __attribute__((always_inline)) {
    return kIsFull ? load(p) : load_first(p, lanes);
  };
  Vec acc[kTaps];
  const float* from[kTaps];
  FASTMODEL_UNROLL
  for (int i = 0; i < kTaps; ++i) {
    acc[i] = get(taps[i].sum + c);
    from[i] = taps[i].from + c;
  }
  x += c;
  for (int64_t j = 0; j < pixels; ++j) {
    const Vec here = get(x + j * x_step);
    FASTMODEL_UNROLL
    for (int i = 0; i < kTaps; ++i) acc[i] += get(from[i] + j * step) * here;
  }
  FASTMODEL_UNROLL
  for (int i = 0; i < kTaps; ++i) {
    store_first(taps[i].sum + c, acc[i], kIsFull ? kLanes : lanes);
  }
}

template <bool kIsFull, typename T>
void tap_gradients(const std::vector<Tap<float>>& taps, int64_t pixels, int64_t step, const T* x,
                   int64_t x_step, int64_t c, int lanes) {
  const int64_t count = static_cast<int64_t>(taps.size());
  int64_t t = 0;
  for (; t + kMostTaps <= count; t += kMostTaps) {
    tap_gradient<kMostTaps, kIsFull>(&taps[t], pixels, step, x, x_step, c, lanes);
  }
  for (; t + 3 <= count; t += 3) {
    tap_gradient<3, kIsFull>(&taps[t], pixels, step, x, x_step, c, lanes);
  }
  for (; t < count; ++t) {
    tap_gradient<1, kIsFull>(&taps[t], pixels, step, x, x_step, c, lanes);
  }
}

// One thread's rows of x: for each, the rows of g that its taps come from are at hand.
template <typename T>
class DepthwiseShare {
 public:
  // sums: [tap][channel], then the bias' [channel]; zeroed.
  DepthwiseShare(const DepthwiseGradients<T>& wanted, const ConvShape& shape, float* sums)
      : wanted_(wanted),
        shape_(shape),
        pitch_(channel_pitch(shape)),
        sums_(sums),
        first_column_(
            std::min<int64_t>(0, column(0, shape.pad_w - (shape.s - 1) * shape.dilation_w))),
        columns_(std::max(shape.q - 1, column(shape.w - 1, shape.pad_w)) + 1 - first_column_),
        ring_rows_((shape.r - 1) * shape.dilation_h / shape.stride_h + 2),
        ring_(new float[ring_rows_ * columns_ * pitch_]()) {
    taps_.reserve(shape.r * shape.s);
  }

  // Rows [begin, end) of image n.
  void add(int64_t n, int64_t begin, int64_t end) {
    const int64_t reach = (shape_.r - 1) * shape_.dilation_h;
    int64_t next = begin == 0 ? 0 : std::max<int64_t>(0, row(begin - reach));
    const auto fill_until = [&](int64_t last) {
      for (; next < std::min(shape_.p, last); ++next) {
        const int64_t home =
            std::min(shape_.h - 1, std::max<int64_t>(0, next * shape_.stride_h - shape_.pad_h));
        fill_row(n, next, home >= begin && home < end);
      }
    };
    for (int64_t y = begin; y < end; ++y) {
      fill_until(row(y) + 1);
      const int64_t line = shape_.w * shape_.c, next_line = shape_.q * shape_.c;
      if (wanted_.grad_weight != nullptr) prefetch(wanted_.x + (n * shape_.h + y) * line, line);
      if (next < shape_.p) {
        prefetch(wanted_.grad + (n * shape_.p + next) * next_line, next_line);
        prefetch(wanted_.out + (n * shape_.p + next) * next_line, next_line);
      }
      for (int64_t phase = 0; phase < std::min(shape_.stride_w, shape_.w); ++phase) {
        add_pixels(n, y, phase);
      }
    }
    if (end == shape_.h) fill_until(shape_.p);  // For the bias: they lie below all of x.
  }

 private:
  int64_t row(int64_t y) const { return floor_div(y + shape_.pad_h, shape_.stride_h); }
  int64_t column(int64_t j, int64_t offset) const { return floor_div(j + offset, shape_.stride_w); }
  float* ring_row(int64_t p) const {
    return ring_.get() + (p % ring_rows_ * columns_ - first_column_) * pitch_;
  }

  // Masks row p of g into the ring; one share alone counts it into the bias.
  void fill_row(int64_t n, int64_t p, bool is_own) {
    const int64_t c = shape_.c, at = (n * shape_.p + p) * shape_.q * c;
    float* to = ring_row(p);
    float* bias = sums_ + shape_.r * shape_.s * pitch_;
    for (int64_t q = 0; q < shape_.q; ++q) {
      for (int64_t i = 0; i < c; i += kLanes) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, c - i));
        const int64_t here = at + q * c + i;
        const Vec y = load_first(wanted_.out + here, lanes);
        const Vec g = y <= 0.0f ? Vec{} : load_first(wanted_.grad + here, lanes);
        store_first(to + q * pitch_ + i, g, lanes);
        if (is_own) store_first(bias + i, load_first(bias + i, lanes) + g, lanes);
      }
    }
  }

  // Pixels phase, phase + stride, ... of row y: they share their taps.
  void add_pixels(int64_t n, int64_t y, int64_t phase) {
    const int64_t c = shape_.c, step = shape_.stride_w * c;
    taps_.clear();
    for (int64_t r = 0; r < shape_.r; ++r) {
      const int64_t from = y + shape_.pad_h - r * shape_.dilation_h, p = from / shape_.stride_h;
      if (from < 0 || from % shape_.stride_h != 0 || p >= shape_.p) continue;
      for (int64_t s = 0; s < shape_.s; ++s) {
        const int64_t offset = shape_.pad_w - s * shape_.dilation_w;
        const int64_t q = column(phase, offset);
        if (q * shape_.stride_w != phase + offset) continue;
        const int64_t tap = (r * shape_.s + s) * pitch_;
        taps_.push_back({ring_row(p) + q * pitch_, wanted_.weight + tap, sums_ + tap});
      }
    }
    const int64_t at = ((n * shape_.h + y) * shape_.w + phase) * c;
    const int64_t pixels = (shape_.w - phase + shape_.stride_w - 1) / shape_.stride_w;
    if (wanted_.grad_x != nullptr) {
      T* to = wanted_.grad_x + at;
      tap_row(taps_, 0, pixels, pitch_, nullptr, c,
              [&](int64_t pixel, int64_t channel, Vec sum, int lanes) {
                store_first(to + pixel * step + channel, sum, lanes);
              });
    }
    if (wanted_.grad_weight == nullptr) return;
    int64_t i = 0;
    for (; i + kLanes <= c; i += kLanes) {
      tap_gradients<true>(taps_, pixels, pitch_, wanted_.x + at, step, i, kLanes);
    }
    if (i < c) {
      tap_gradients<false>(taps_, pixels, pitch_, wanted_.x + at, step, i, static_cast<int>(c - i));
    }
  }

  const DepthwiseGradients<T>& wanted_;
  const ConvShape& shape_;
  int64_t pitch_;
  float* sums_;
  int64_t first_column_, columns_;  // of a ring row: g's columns and all that taps reach around
  int64_t ring_rows_;
  std::unique_ptr<float[]> ring_;
  std::vector<Tap<float>> taps_;
};

template <typename T>
void depthwise_backward(const DepthwiseGradients<T>& wanted, const ConvShape& shape, int threads) {
  const int64_t pitch = channel_pitch(shape), taps = shape.r * shape.s, floats = (taps + 1) * pitch;
  const int64_t rows = shape.n * shape.h;
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(threads, rows));
  const ShareSums sums(shares, floats);
  parallel_for(rows, threads, [&](int64_t begin, int64_t end, int thread) {
    DepthwiseShare<T> share(wanted, shape, sums.of(thread));
    while (begin < end) {
      const int64_t n = begin / shape.h, first = begin % shape.h;
      const int64_t last = std::min(shape.h, first + end - begin);
      share.add(n, first, last);
      begin += last - first;
    }
  });
  for (int64_t i = 0; i < shape.c; ++i) {
    if (wanted.grad_bias != nullptr) from_float(sums.total(taps * pitch + i), wanted.grad_bias + i);
    if (wanted.grad_weight == nullptr) continue;
    const Strides& stride = wanted.grad_weight_stride;
    for (int64_t tap = 0; tap < taps; ++tap) {
      from_float(sums.total(tap * pitch + i), wanted.grad_weight + i * stride.d0 +
                                                  tap / shape.s * stride.d2 +
                                                  tap % shape.s * stride.d3);
    }
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
