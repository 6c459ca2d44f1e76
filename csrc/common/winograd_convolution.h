// A convolution of stride 1 by Winograd's F(2 x 2, 3 x 3) (common/winograd.h): forward, and the
// gradient of x, which is the convolution of the output's gradient with the filters turned
// around.
//
// A group of tiles is transformed into 16 matrices (tiles x C); each block of output channels is
// then 16 products in registers, (6 tiles x block) at a time, and one inverse transform. A group is
// as large as fits L2 beside the products: each of its tiles reads all filters once per group from
// L2 or L3.
//
// FLOPs: 2 * 16 * tiles * C * K for 4 outputs a tile, at 5 x 5 filters 2 * 49. Bytes: the input 4
// times as V for each part of the filters (written and read in L2), the filters' 16 / 9 once a
// group, the products once (L2).
#pragma once

#include <atomic>
#include <type_traits>

#include "common/winograd.h"
#include "common/workspace.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Tiles in a group, whole register tiles. From 24 to 192 of them differ by less than 8 % (AMD EPYC
// 9005, 64 to 512 channels of 56 x 56 to 13 x 13): at 24 the filters from L3 begin to show, at 132
// V leaves L2.
constexpr int64_t kConvolutionTiles = 72;
constexpr int64_t kLeastTiles = 24;  // of several parts each

// Channels of one part in V: whole vectors.
inline int64_t part_row(int64_t channels) { return round_up(channels, kLanes); }

// G g GT as [block of output channels][point][part][input channel][channel in block], filled up
// with zeros: with several parts the input channels too, to the rows of V, which are multiplied as
// one.
struct WinogradFilters {
  FilterParts parts;
  int64_t in, out, row, block, blocks;
  Workspace u;

  // Reads a weight (out, in, R, S) with any strides, negative ones too.
  template <typename T>
  WinogradFilters(const T* weight, const Strides& stride, const FilterParts& parts, int64_t in,
                  int64_t out, int vectors, int threads);

  float* at(int64_t b, int64_t point, int part) const {
    return u.get() + ((b * kWinogradPoints + point) * parts.count() + part) * row * block;
  }
};

template <typename T>
WinogradFilters::WinogradFilters(const T* weight, const Strides& stride, const FilterParts& parts,
                                 int64_t in, int64_t out, int vectors, int threads)
    : parts(parts),
      in(in),
      out(out),
      row(parts.count() == 1 ? in : part_row(in)),
      block(vectors * kLanes),
      blocks((out + block - 1) / block),
      u(blocks * kWinogradPoints * parts.count() * row * block) {
  constexpr int64_t kChunk = 8;
  const int64_t chunks = (row + kChunk - 1) / kChunk;
  parallel_for(blocks * chunks * parts.count(), threads, [&](int64_t begin, int64_t end, int) {
    float taps[kChunk][9][kMostVecs * kLanes];
    for (int64_t task = begin; task < end; ++task) {
      const int p = static_cast<int>(task % parts.count());
      const FilterPart& part = parts[p];
      const int64_t b = task / parts.count() / chunks, k0 = b * block;
      const int64_t first = task / parts.count() % chunks * kChunk;
      const int64_t count = std::min(kChunk, row - first), channels = std::min(block, out - k0);
      std::fill(&taps[0][0][0], &taps[0][0][0] + sizeof(taps) / sizeof(float), 0.0f);
      for (int64_t k = 0; k < channels; ++k) {
        for (int64_t c = 0; c < std::min(count, in - first); ++c) {
          const T* from = weight + (k0 + k) * stride.d0 + (first + c) * stride.d1;
          for (int64_t r = 0; r < part.taps_r; ++r) {
            for (int64_t s = 0; s < part.taps_s; ++s) {
              taps[c][r * 3 + s][k] =
                  to_float(from[(part.r + r) * stride.d2 + (part.s + s) * stride.d3]);
            }
          }
        }
      }
      for (int64_t c = 0; c < count; ++c) {
        for (int64_t v = 0; v < block; v += kLanes) {
          Vec g[3][3], transformed[4][4];
          FASTMODEL_UNROLL
          for (int tap = 0; tap < 9; ++tap) g[tap / 3][tap % 3] = load(&taps[c][tap][v]);
          transform_filter(g, part, transformed);
          for (int point = 0; point < kWinogradPoints; ++point)
            store(at(b, point, p) + (first + c) * block + v, transformed[point / 4][point % 4]);
        }
      }
    }
  });
}

// to[point][channel] = BT d B of one tile, for a part of so many taps.
template <int kTapsR, int kTapsS, typename Pixel>
void transform_tile(const Pixel (&pixel)[kWinogradPoints], int64_t channels, float* to,
                    int64_t plane) {
  const auto transform = [&](int64_t c, int lanes) __attribute__((always_inline)) {
    Vec d[4][4];
    FASTMODEL_UNROLL
    for (int i = 0; i < kWinogradPoints; ++i) d[i / 4][i % 4] = pixel[i].load(c, lanes);
    transform_input<kTapsR, kTapsS>(d);
    FASTMODEL_UNROLL
    for (int i = 0; i < kWinogradPoints; ++i) store(to + c + i * plane, d[i / 4][i % 4]);
  };
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) transform(c, kLanes);
  if (c < channels) transform(c, static_cast<int>(channels - c));
}

// V[point][tile][part][channel] = BT d B of tiles [begin, begin + count) of the grid, whose 4 x 4
// inputs start at the part's first tap, pad pixels above and left of their outputs, for some parts.
template <typename Source>
void transform_tiles(const Source& source, const FilterPart* parts, int part_count,
                     const TileGrid& grid, int64_t begin, int64_t count, int64_t pad_h,
                     int64_t pad_w, int64_t channels, float* v, int64_t plane) {
  using Pixel = typename Source::Pixel;
  for (int64_t t = 0; t < count; ++t) {
    const Tile tile = tile_at(grid, begin + t);
    for (int p = 0; p < part_count; ++p, v += part_row(channels)) {
      const int64_t top = tile.p - pad_h + grid.step_h * parts[p].r;
      const int64_t left = tile.q - pad_w + grid.step_w * parts[p].s;
      Pixel pixel[kWinogradPoints];
      FASTMODEL_UNROLL
      for (int i = 0; i < kWinogradPoints; ++i) {
        pixel[i] = source.at(tile.n, top + i / 4 * grid.step_h, left + i % 4 * grid.step_w);
      }
      const auto transform =
          parts[p].taps_r == 2
              ? (parts[p].taps_s == 2 ? transform_tile<2, 2, Pixel> : transform_tile<2, 3, Pixel>)
              : (parts[p].taps_s == 2 ? transform_tile<3, 2, Pixel> : transform_tile<3, 3, Pixel>);
      transform(pixel, channels, v, plane);
    }
  }
}

// m (tiles x block) = v (tiles x terms, rows of `row`) times packed u (terms x block). Apart from
// its callers, whose variables would push the loop's pointers out of registers.
template <int kVecs>
__attribute__((noinline)) void multiply_tiles(const float* v, int64_t row, int64_t tiles,
                                              const float* u, int64_t terms, float* m) {
  for (int64_t t = 0; t < tiles; t += kWinogradRows) {
    const float* a[kWinogradRows];
    for (int i = 0; i < kWinogradRows; ++i) a[i] = v + std::min(t + i, tiles - 1) * row;
    multiply<false, kVecs>(a, 1, u, terms, m + t * kVecs * kLanes);
  }
}

// Calls sink(tile, channel, outputs, lanes) for every tile and vector of output channels. True if
// all outputs are finite.
template <int kVecs, typename Source, typename Sink>
bool winograd_convolution(const Source& source, const WinogradFilters& filters,
                          const TileGrid& grid, int64_t pad_h, int64_t pad_w, int threads,
                          const Sink& sink) {
  constexpr int64_t kBlock = kVecs * kLanes;
  const FilterParts& parts = filters.parts;
  const int64_t row = parts.count() * part_row(filters.in);
  const int64_t most_tiles = std::max(kLeastTiles, kConvolutionTiles / parts.count());
  const int64_t group = tiles_in_group(grid.count(), most_tiles, threads);
  const int64_t groups = (grid.count() + group - 1) / group;
  const int64_t v_plane = plane_floats(group * row);
  const int64_t m_plane = plane_floats(round_up(group, kWinogradRows) * kBlock);
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(threads, groups));
  const int64_t own_floats = kWinogradPoints * (v_plane + m_plane);
  const Workspace scratch(shares * own_floats);
  std::atomic<bool> is_finite{true};
  parallel_for(groups, threads, [&](int64_t first, int64_t last, int thread) {
    float* v = scratch.get() + thread * own_floats;
    float* m = v + kWinogradPoints * v_plane;
    Vec rest = {};  // stays 0 as long as all is finite
    for (int64_t g = first; g < last; ++g) {
      const int64_t begin = g * group, count = std::min(group, grid.count() - begin);
      transform_tiles(source, &parts[0], parts.count(), grid, begin, count, pad_h, pad_w,
                      filters.in, v, v_plane);
      for (int64_t b = 0; b < filters.blocks; ++b) {
        for (int point = 0; point < kWinogradPoints; ++point) {
          const PartRange range = parts.with_term(point);
          multiply_tiles<kVecs>(v + point * v_plane + range.first * filters.row, row, count,
                                filters.at(b, point, range.first), range.count * filters.row,
                                m + point * m_plane);
        }
        for (int64_t t = 0; t < count; ++t) {
          const Tile tile = tile_at(grid, begin + t);
          for (int64_t k = 0; k < kBlock && b * kBlock + k < filters.out; k += kLanes) {
            Vec product[4][4], y[2][2];
            const float* from = m + t * kBlock + k;
            FASTMODEL_UNROLL
            for (int i = 0; i < kWinogradPoints; ++i)
              product[i / 4][i % 4] = load(from + i * m_plane);
            transform_output(product, y);
            const Vec all = (y[0][0] + y[0][1]) + (y[1][0] + y[1][1]);
            rest += all - all;
            const int lanes =
                static_cast<int>(std::min<int64_t>(kLanes, filters.out - b * kBlock - k));
            sink(tile, b * kBlock + k, y, lanes);
          }
        }
      }
    }
    if (!all_finite(rest)) is_finite = false;
  });
  return is_finite;
}

// The gradient of x from the source of the output's gradients; x has channels innermost, any
// strides between pixels. True if it is finite.
template <int kVecs, typename T, typename Gradients>
bool winograd_input_gradient(const Gradients& gradients, const T* weight, const Strides& stride,
                             const ConvShape& shape, T* grad_x, const Strides& grad_x_stride,
                             int threads) {
  // The convolution of the gradients with the filters turned around, their channels' roles
  // exchanged.
  const int64_t last_r = shape.r - 1, last_s = shape.s - 1;
  const WinogradFilters filters(weight + last_r * stride.d2 + last_s * stride.d3,
                                {stride.d1, stride.d0, -stride.d2, -stride.d3}, {shape.r, shape.s},
                                shape.k, shape.c, kVecs, threads);
  const TileGrid grid =
      TileGrid::over(shape.n, shape.h, shape.w, shape.dilation_h, shape.dilation_w);
  const auto write = [&](const Tile& tile, int64_t c, const Vec(&y)[2][2], int lanes) {
    FASTMODEL_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int64_t h = tile.p + i / 2 * grid.step_h, w = tile.q + i % 2 * grid.step_w;
      if (h >= shape.h || w >= shape.w) continue;
      T* to = grad_x + tile.n * grad_x_stride.d0 + h * grad_x_stride.d2 + w * grad_x_stride.d3;
      store_first(to + c, y[i / 2][i % 2], lanes);
    }
  };
  return winograd_convolution<kVecs>(gradients, filters, grid, last_r * grid.step_h - shape.pad_h,
                                     last_s * grid.step_w - shape.pad_w, threads, write);
}

// body(vectors) with the vectors in a block of `channels` output channels as a compile-time
// constant.
template <typename Body>
bool with_vectors(int64_t channels, const Body& body) {
  switch (filter_vectors(channels)) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    default:
      return body(std::integral_constant<int, kMostVecs>());
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
