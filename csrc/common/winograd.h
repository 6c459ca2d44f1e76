// Winograd's F(2 x 2, 3 x 3): the transforms, and what the products have in common.
//
// A tile of 2 x 2 outputs of a 3 x 3 convolution of stride 1 reads 4 x 4 inputs d. With
//   BT = 1  0 -1  0    G = 1    0   0     AT = 1 1  1  0
//        0  1  1  0        1/2  1/2 1/2        0 1 -1 -1
//        0 -1  1  0        1/2 -1/2 1/2
//        0  1  0 -1        0    0   1
// the tile is AT [(G g GT) * (BT d B)] A, where * is elementwise: over C channels, 16 products of
// (tiles x C) with (C x K) matrices, 16 multiplications for a tile instead of 36. The constants are
// powers of two, so the error stays near that of the direct sum, and small integers stay exact.
// Sums of what the direct product keeps apart turn one infinity into NaN for the whole tile: the
// products report whether all they wrote is finite, and callers that hear no compute again by
// another way.
//
// A filter of 4 to 6 taps a side is a sum of parts of 2 or 3: each is a filter of its own over the
// image shifted to its first tap, and the products of all are summed before the one inverse
// transform, as if the parts were further channels. 5 taps are 3 + 2. Two taps need three points,
//   BT = 1 -1  0    G = 1 0    and the third of the four stays empty,
//        0  1  0        1 1
//        -            -
//        0  1 -1        0 1
// so that 5 x 5 filters take 49 multiplications for a tile instead of 100.
//
// Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015),
// arXiv:1509.09308.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/conv_forward.h"
#include "common/conv_shape.h"
#include "common/threads.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

constexpr int kWinogradPoints = 16;
// Rows of a register tile: 6 x kMostVecs accumulators beside kMostVecs vectors and one broadcast.
constexpr int kWinogradRows = 6;

// The first output of a tile; the others are a step below and to the right of it.
struct Tile {
  int64_t n, p, q;
};

// Where the tiles of a batch lie. A filter dilated by (step_h, step_w) sees every step_h-th row and
// step_w-th column: the image falls into lattices, and a tile holds neighbours of one of them.
struct TileGrid {
  int64_t images, rows, cols, step_h, step_w;

  // Tiles over all of P x Q outputs.
  static TileGrid over(int64_t images, int64_t p, int64_t q, int64_t step_h, int64_t step_w) {
    const auto tiles = [](int64_t outputs, int64_t step) {
      return (outputs + 2 * step - 1) / (2 * step) * step;
    };
    return {images, tiles(p, step_h), tiles(q, step_w), step_h, step_w};
  }

  int64_t count() const { return images * rows * cols; }
};

inline Tile tile_at(const TileGrid& grid, int64_t t) {
  // Divisions would show where few channels make a tile cheap.
  const auto first = [](int64_t tile, int64_t step) {
    return step == 1 ? 2 * tile : tile / step * 2 * step + tile % step;
  };
  const int64_t plane = grid.rows * grid.cols, in_plane = t % plane;
  return {t / plane, first(in_plane / grid.cols, grid.step_h),
          first(in_plane % grid.cols, grid.step_w)};
}

// taps_r x taps_s taps of a filter from tap (r, s) on.
struct FilterPart {
  int64_t r, s, taps_r, taps_s;
};

constexpr int kEmptyPoint = 2;  // of two taps

// Parts [first, first + count).
struct PartRange {
  int first, count;
};

// The parts of a filter of 3 to 6 taps a side; those with a term at a point are neighbours.
class FilterParts {
 public:
  FilterParts(int64_t r, int64_t s) {
    // The first parts are the longer ones; the corner of both lies between those of one.
    const int64_t r0 = r > 3 ? (r + 1) / 2 : r, s0 = s > 3 ? (s + 1) / 2 : s;
    if (s0 < s) parts_[count_++] = {0, s0, r0, s - s0};
    parts_[count_++] = {0, 0, r0, s0};
    if (r0 < r) parts_[count_++] = {r0, 0, r - r0, s0};
    if (r0 < r && s0 < s) parts_[count_++] = {r0, s0, r - r0, s - s0};
  }

  int count() const { return count_; }
  const FilterPart& operator[](int i) const { return parts_[i]; }

  bool has_term(int part, int point) const {
    return (point / 4 != kEmptyPoint || parts_[part].taps_r != 2) &&
           (point % 4 != kEmptyPoint || parts_[part].taps_s != 2);
  }

  PartRange with_term(int point) const {
    PartRange range = {0, 0};
    for (int part = 0; part < count_; ++part) {
      if (!has_term(part, point)) continue;
      if (range.count == 0) range.first = part;
      ++range.count;
    }
    return range;
  }

 private:
  int count_ = 0;
  FilterPart parts_[4];
};

// How many tiles are transformed before they are multiplied: as many as share the filters' way
// through the caches, in groups of equal size that the threads can share evenly.
inline int64_t tiles_in_group(int64_t tiles, int64_t most, int threads) {
  const int64_t shares = std::max(threads, 1);
  const int64_t groups =
      std::max<int64_t>(1, (tiles + most * shares - 1) / (most * shares) * shares);
  return std::max<int64_t>(1, (tiles + groups - 1) / groups);
}

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// One plane of a transformed operand for each of the 16 points; a line more than needed, so that
// the planes do not fall on the same cache sets.
inline int64_t plane_floats(int64_t floats) { return round_up(floats, 16) + 16; }

// BT d, in place, for a side of so many taps.
template <int kTaps>
FASTMODEL_INLINE void transform_input_line(Vec& d0, Vec& d1, Vec& d2, Vec& d3) {
  if (kTaps == 2) {
    d0 = d0 - d1, d3 = d1 - d2;
    return;
  }
  const Vec sum = d1 + d2, difference = d2 - d1;
  d0 = d0 - d2, d3 = d1 - d3, d1 = sum, d2 = difference;
}

// BT d B, in place.
template <int kTapsR, int kTapsS>
FASTMODEL_INLINE void transform_input(Vec (&d)[4][4]) {
  FASTMODEL_UNROLL
  for (int x = 0; x < 4; ++x) {
    transform_input_line<kTapsR>(d[0][x], d[1][x], d[2][x], d[3][x]);
  }
  FASTMODEL_UNROLL
  for (int y = 0; y < 4; ++y) {
    transform_input_line<kTapsS>(d[y][0], d[y][1], d[y][2], d[y][3]);
  }
}

// AT m A.
FASTMODEL_INLINE void transform_output(const Vec (&m)[4][4], Vec (&y)[2][2]) {
  Vec rows[2][4];
  FASTMODEL_UNROLL
  for (int x = 0; x < 4; ++x) {
    rows[0][x] = m[0][x] + m[1][x] + m[2][x];
    rows[1][x] = m[1][x] - m[2][x] - m[3][x];
  }
  FASTMODEL_UNROLL
  for (int i = 0; i < 2; ++i) {
    y[i][0] = rows[i][0] + rows[i][1] + rows[i][2];
    y[i][1] = rows[i][1] - rows[i][2] - rows[i][3];
  }
}

// A g AT, for the gradient g of a tile.
FASTMODEL_INLINE void transform_gradient(const Vec (&g)[2][2], Vec (&out)[4][4]) {
  Vec rows[4][2];
  FASTMODEL_UNROLL
  for (int x = 0; x < 2; ++x) {
    rows[0][x] = g[0][x];
    rows[1][x] = g[0][x] + g[1][x];
    rows[2][x] = g[0][x] - g[1][x];
    rows[3][x] = -g[1][x];
  }
  FASTMODEL_UNROLL
  for (int y = 0; y < 4; ++y) {
    out[y][0] = rows[y][0];
    out[y][1] = rows[y][0] + rows[y][1];
    out[y][2] = rows[y][0] - rows[y][1];
    out[y][3] = -rows[y][1];
  }
}

// G g, for a side of so many taps.
FASTMODEL_INLINE void transform_filter_line(const Vec& g0, const Vec& g1, const Vec& g2,
                                            int64_t taps, Vec (&u)[4]) {
  if (taps == 2) {
    u[0] = g0, u[1] = g0 + g1, u[2] = Vec{}, u[3] = g1;
    return;
  }
  const Vec even = 0.5f * (g0 + g2), odd = 0.5f * g1;
  u[0] = g0, u[1] = even + odd, u[2] = even - odd, u[3] = g2;
}

// G g GT.
FASTMODEL_INLINE void transform_filter(const Vec (&g)[3][3], const FilterPart& part,
                                       Vec (&u)[4][4]) {
  Vec columns[3][4];
  FASTMODEL_UNROLL
  for (int x = 0; x < 3; ++x) {
    transform_filter_line(g[0][x], g[1][x], g[2][x], part.taps_r, columns[x]);
  }
  FASTMODEL_UNROLL
  for (int y = 0; y < 4; ++y) {
    transform_filter_line(columns[0][y], columns[1][y], columns[2][y], part.taps_s, u[y]);
  }
}

// GT m, for a side of so many taps.
FASTMODEL_INLINE void transform_filter_gradient_line(const Vec& m0, const Vec& m1, const Vec& m2,
                                                     const Vec& m3, int64_t taps, Vec (&g)[3]) {
  if (taps == 2) {
    g[0] = m0 + m1, g[1] = m1 + m3, g[2] = Vec{};
    return;
  }
  const Vec even = 0.5f * (m1 + m2), odd = 0.5f * (m1 - m2);
  g[0] = m0 + even, g[1] = odd, g[2] = even + m3;
}

// GT m G: the gradient of a filter from that of its transform.
FASTMODEL_INLINE void transform_filter_gradient(const Vec (&m)[4][4], const FilterPart& part,
                                                Vec (&g)[3][3]) {
  Vec columns[4][3];
  FASTMODEL_UNROLL
  for (int x = 0; x < 4; ++x) {
    transform_filter_gradient_line(m[0][x], m[1][x], m[2][x], m[3][x], part.taps_r, columns[x]);
  }
  FASTMODEL_UNROLL
  for (int y = 0; y < 3; ++y) {
    transform_filter_gradient_line(columns[0][y], columns[1][y], columns[2][y], columns[3][y],
                                   part.taps_s, g[y]);
  }
}

// to[i][v], a register tile, = sum over e of a[i][e * step] * b[e][v], or += it; b is packed,
// (count, kVecs vectors).
template <bool kAdds, int kVecs>
FASTMODEL_INLINE void multiply(const float* const (&a)[kWinogradRows], int64_t step, const float* b,
                               int64_t count, float* to) {
  Vec acc[kWinogradRows][kVecs];
  FASTMODEL_UNROLL
  for (int i = 0; i < kWinogradRows; ++i) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) acc[i][v] = Vec{};
  }
  for (int64_t e = 0; e < count; ++e) {
    Vec w[kVecs];
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) w[v] = load(b + v * kLanes);
    b += kVecs * kLanes;
    FASTMODEL_UNROLL
    for (int i = 0; i < kWinogradRows; ++i) {
      const Vec x = broadcast(a[i][e * step]);
      FASTMODEL_UNROLL
      for (int v = 0; v < kVecs; ++v) acc[i][v] += x * w[v];
    }
  }
  FASTMODEL_UNROLL
  for (int i = 0; i < kWinogradRows; ++i) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      float* at = to + (i * kVecs + v) * kLanes;
      store(at, kAdds ? load(at) + acc[i][v] : acc[i][v]);
    }
  }
}

// Are all lanes finite? Sums of finite values that overflow count as not.
FASTMODEL_INLINE bool all_finite(Vec v) {
  const IVec bad = (v - v) != 0.0f;
  IVec any = bad;
  int32_t found = 0;
  for (int i = 0; i < kLanes; ++i) found |= any[i];
  return found == 0;
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
