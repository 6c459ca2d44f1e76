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

// Where the tiles of a batch lie; tile t covers outputs (2 row .. 2 row + 1, 2 col .. 2 col + 1).
struct TileGrid {
  int64_t images, rows, cols;

  int64_t count() const { return images * rows * cols; }
};

struct Tile {
  int64_t n, row, col;
};

inline Tile tile_at(const TileGrid& grid, int64_t t) {
  const int64_t plane = grid.rows * grid.cols;
  return {t / plane, t % plane / grid.cols, t % grid.cols};
}

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

// BT d B, in place.
FASTMODEL_INLINE void transform_input(Vec (&d)[4][4]) {
  FASTMODEL_UNROLL
  for (int x = 0; x < 4; ++x) {
    const Vec a = d[0][x] - d[2][x], b = d[1][x] + d[2][x];
    const Vec c = d[2][x] - d[1][x], e = d[1][x] - d[3][x];
    d[0][x] = a, d[1][x] = b, d[2][x] = c, d[3][x] = e;
  }
  FASTMODEL_UNROLL
  for (int y = 0; y < 4; ++y) {
    const Vec a = d[y][0] - d[y][2], b = d[y][1] + d[y][2];
    const Vec c = d[y][2] - d[y][1], e = d[y][1] - d[y][3];
    d[y][0] = a, d[y][1] = b, d[y][2] = c, d[y][3] = e;
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

// G g GT.
FASTMODEL_INLINE void transform_filter(const Vec (&g)[3][3], Vec (&u)[4][4]) {
  Vec rows[4][3];
  FASTMODEL_UNROLL
  for (int x = 0; x < 3; ++x) {
    const Vec even = 0.5f * (g[0][x] + g[2][x]), odd = 0.5f * g[1][x];
    rows[0][x] = g[0][x], rows[1][x] = even + odd, rows[2][x] = even - odd, rows[3][x] = g[2][x];
  }
  FASTMODEL_UNROLL
  for (int y = 0; y < 4; ++y) {
    const Vec even = 0.5f * (rows[y][0] + rows[y][2]), odd = 0.5f * rows[y][1];
    u[y][0] = rows[y][0], u[y][1] = even + odd, u[y][2] = even - odd, u[y][3] = rows[y][2];
  }
}

// GT m G: the gradient of a filter from that of its transform.
FASTMODEL_INLINE void transform_filter_gradient(const Vec (&m)[4][4], Vec (&g)[3][3]) {
  Vec rows[3][4];
  FASTMODEL_UNROLL
  for (int x = 0; x < 4; ++x) {
    const Vec even = 0.5f * (m[1][x] + m[2][x]), odd = 0.5f * (m[1][x] - m[2][x]);
    rows[0][x] = m[0][x] + even, rows[1][x] = odd, rows[2][x] = even + m[3][x];
  }
  FASTMODEL_UNROLL
  for (int y = 0; y < 3; ++y) {
    const Vec even = 0.5f * (rows[y][1] + rows[y][2]), odd = 0.5f * (rows[y][1] - rows[y][2]);
    g[y][0] = rows[y][0] + even, g[y][1] = odd, g[y][2] = even + rows[y][3];
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
