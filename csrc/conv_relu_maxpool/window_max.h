// The maximum of a pool window with its position, and a row of windows over rows of the
// convolution's output.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/conv_shape.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

template <int kVecs>
struct WindowMax;
WindowMax<1> first_of_any(Vec a, Vec b, Vec c, Vec d);

// The window's maximum so far and where it was seen.
template <int kVecs>
struct WindowMax {
  Vec value[kVecs];
  IVec position[kVecs] = {};

  FASTMODEL_INLINE WindowMax() {
    for (int v = 0; v < kVecs; ++v) value[v] = broadcast(-INFINITY);
  }

  template <int kPixels>
  FASTMODEL_INLINE void take(const Vec (&acc)[kPixels][kVecs], int64_t first) {
    if constexpr (kPixels == 4) {
      if (first == 0) return take_first(acc);
    }
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      for (int i = 0; i < kPixels; ++i) {
        const IVec here = IVec{} + static_cast<int32_t>(first + i);
        const IVec is_new = (acc[i][v] > value[v]) | (acc[i][v] != acc[i][v]);
        value[v] = is_new ? acc[i][v] : value[v];
        position[v] = is_new ? here : position[v];
      }
    }
  }

  // A window's first four pixels, in two rounds of a knock-out: half the comparisons in a row. A
  // NaN, which would have to win whatever it meets, sends the vector the long way.
  FASTMODEL_INLINE void take_first(const Vec (&acc)[4][kVecs]) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      const Vec a = acc[0][v], b = acc[1][v], c = acc[2][v], d = acc[3][v];
      if ((unordered_lanes(a, b) | unordered_lanes(c, d)) != 0) {
        const WindowMax<1> best = first_of_any(a, b, c, d);
        value[v] = best.value[0], position[v] = best.position[0];
        continue;
      }
      take_numbers(v, a, b, c, d);
    }
  }

  // Vector v of a window of four pixels without NaN.
  FASTMODEL_INLINE void take_numbers(int v, Vec a, Vec b, Vec c, Vec d) {
    const IVec right = b > a, right_below = d > c;
    const Vec top = right ? b : a, bottom = right_below ? d : c;
    const IVec is_below = bottom > top;
    value[v] = is_below ? bottom : top;
    // A comparison is -1 where it holds.
    position[v] = is_below ? 2 - right_below : -right;
  }

  template <typename T>
  FASTMODEL_INLINE void write(int v, int32_t dead, T* out, uint8_t* argmax, int lanes) const {
    store_first(out, relu(value[v]), lanes);
    store_bytes(argmax, value[v] <= 0.0f ? IVec{} + dead : position[v], lanes);
  }
};

// As take, for values with NaN among them; apart, to be out of the way of the loops.
__attribute__((noinline)) inline WindowMax<1> first_of_any(Vec a, Vec b, Vec c, Vec d) {
  WindowMax<1> best;
  best.take<1>({{a}}, 0);
  best.take<1>({{b}}, 1);
  best.take<1>({{c}}, 2);
  best.take<1>({{d}}, 3);
  return best;
}

// Pools one row: out and argmax (PQ, K) of pooled row pp. row(p) is row p of the convolution's
// output, Q pixels `stride` elements apart.
template <typename T, typename Row>
void pool_row(const ConvShape& shape, int64_t pp, const Row& row, int64_t stride, T* out,
              uint8_t* argmax) {
  const int32_t dead = static_cast<int32_t>(shape.window());
  for (int64_t pq = 0; pq < shape.pq; ++pq) {
    const Window window(shape, pp, pq);
    for (int64_t k = 0; k < shape.k; k += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, shape.k - k));
      WindowMax<1> best;
      for (int64_t r = window.begin_r; r < window.end_r; ++r) {
        const auto* from = row(window.h + r) + window.w * stride + k;
        for (int64_t s = window.begin_s; s < window.end_s; ++s) {
          const Vec value[1][1] = {{load_first(from + s * stride, lanes)}};
          best.take(value, r * shape.pool_s + s);
        }
      }
      best.write(0, dead, out + pq * shape.k + k, argmax + pq * shape.k + k, lanes);
    }
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
