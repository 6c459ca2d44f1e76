// The gradient of the filters of a convolution of stride 1, by Winograd's F(2 x 2, 3 x 3)
// (common/winograd.h): GT [sum over tiles of (A g AT) * (BT d B)] G, for each part of the filters.
//
// 16 products (C x tiles) with (tiles x K) a part, summed over groups of tiles in a buffer of
// 16 * C * K floats a part. While that is small each thread has its own and takes a share of the
// tiles; a large one is split between the threads by output channels instead, at the price of
// transforming the inputs once each.
//
// FLOPs: 2 * 16 * tiles * C * K, at 5 x 5 filters 2 * 49. Bytes: both inputs 4 times (written and
// read in L2), the sums read and written once a group.
#pragma once

#include <numeric>

#include "common/winograd_convolution.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Tiles in a group. From 48 to 192 of them differ by less than 8 %, as for kConvolutionTiles.
constexpr int64_t kGradientTiles = 96;

// Tiles that are summed in registers before they join the sum so far: short chains of rounding
// errors, at the price of one load and store for so many FMAs.
constexpr int64_t kSumTiles = 48;

// How threads share the sums: each has k_shares-th of the output channels and tile_shares-th of the
// tiles.
struct GradientShares {
  int k, tiles;
};

inline GradientShares gradient_shares(int64_t sum_bytes, int64_t blocks, int64_t tiles,
                                      int threads) {
  constexpr int64_t kOwnBytes = 1 << 20;
  const int used = std::max(threads, 1);
  const int k = sum_bytes > kOwnBytes ? static_cast<int>(std::gcd<int64_t>(blocks, used)) : 1;
  return {k, static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(used / k, tiles)))};
}

// grad_weight (K, C, R, S), of any strides, and grad_bias (K), each unless null; true if all that
// was written is finite. `gradients` is the source of the output's gradients.
template <int kVecs, typename T, typename Pixels, typename Gradients>
bool winograd_weight_gradient(const Pixels& pixels, const Gradients& gradients,
                              const ConvShape& shape, const TileGrid& grid, T* grad_weight,
                              const Strides& stride, T* grad_bias, int threads) {
  const FilterParts parts(shape.r, shape.s);
  const int64_t c_count = shape.c, k_count = shape.k;
  constexpr int64_t kBlock = kVecs * kLanes;
  const int64_t blocks = (k_count + kBlock - 1) / kBlock;
  const int64_t row = part_row(c_count), sum_rows = round_up(c_count, kWinogradRows);
  const int64_t sum_floats = blocks * kWinogradPoints * parts.count() * sum_rows * kBlock;
  const GradientShares shares = gradient_shares(sum_floats * 4, blocks, grid.count(), threads);
  const int64_t own_tiles = (grid.count() + shares.tiles - 1) / shares.tiles;
  const int64_t own_blocks = (blocks + shares.k - 1) / shares.k;
  const int64_t group = tiles_in_group(own_tiles, kGradientTiles, 1);
  const int64_t v_plane = plane_floats(group * row), g_plane = plane_floats(group * kBlock);
  const int64_t own_floats =
      kWinogradPoints * (v_plane + own_blocks * g_plane) + own_blocks * kBlock;

  const Workspace sums(shares.tiles * (sum_floats + blocks * kBlock));
  float* bias_sums = sums.get() + shares.tiles * sum_floats;
  const Workspace scratch(shares.k * shares.tiles * own_floats);
  // Sums of (block, part, point): [input channel][channel in block].
  const auto sums_at = [&](int64_t share, int64_t b, int part, int64_t point) {
    const int64_t at = (b * parts.count() + part) * kWinogradPoints + point;
    return sums.get() + share * sum_floats + at * sum_rows * kBlock;
  };
  parallel_for(shares.k * shares.tiles, threads, [&](int64_t first, int64_t last, int) {
    for (int64_t task = first; task < last; ++task) {
      float* v = scratch.get() + task * own_floats;
      float* w = v + kWinogradPoints * v_plane;
      float* group_bias = w + kWinogradPoints * own_blocks * g_plane;
      const int64_t k_share = task % shares.k, tile_share = task / shares.k;
      const int64_t b0 = blocks * k_share / shares.k, b1 = blocks * (k_share + 1) / shares.k;
      const int64_t end = std::min(grid.count(), (tile_share + 1) * own_tiles);
      float* own_bias = bias_sums + (tile_share * blocks + b0) * kBlock;
      std::fill(own_bias, own_bias + (b1 - b0) * kBlock, 0.0f);
      if (grad_weight != nullptr) {
        std::fill(sums_at(tile_share, b0, 0, 0), sums_at(tile_share, b1, 0, 0), 0.0f);
      }
      for (int64_t begin = tile_share * own_tiles; begin < end; begin += group) {
        const int64_t count = std::min(group, end - begin);
        std::fill(group_bias, group_bias + (b1 - b0) * kBlock, 0.0f);
        for (int64_t t = 0; t < count; ++t) {
          const Tile tile = tile_at(grid, begin + t);
          typename Gradients::Pixel pixel[4];
          for (int i = 0; i < 4; ++i) {
            pixel[i] =
                gradients.at(tile.n, tile.p + i / 2 * grid.step_h, tile.q + i % 2 * grid.step_w);
          }
          for (int64_t k = b0 * kBlock; k < b1 * kBlock; k += kLanes) {
            const int lanes =
                static_cast<int>(std::max<int64_t>(0, std::min<int64_t>(kLanes, k_count - k)));
            Vec g[2][2], transformed[4][4];
            FASTMODEL_UNROLL
            for (int i = 0; i < 4; ++i) g[i / 2][i % 2] = pixel[i].load(k, lanes);
            float* bias = group_bias + k - b0 * kBlock;
            store(bias, load(bias) + ((g[0][0] + g[0][1]) + (g[1][0] + g[1][1])));
            transform_gradient(g, transformed);
            float* to = w + (k / kBlock - b0) * kWinogradPoints * g_plane + t * kBlock + k % kBlock;
            FASTMODEL_UNROLL
            for (int i = 0; i < kWinogradPoints; ++i)
              store(to + i * g_plane, transformed[i / 4][i % 4]);
          }
        }
        for (int64_t k = 0; k < (b1 - b0) * kBlock; ++k) own_bias[k] += group_bias[k];
        if (grad_weight == nullptr) continue;
        for (int part = 0; part < parts.count(); ++part) {
          transform_tiles(pixels, &parts[part], 1, grid, begin, count, shape.pad_h, shape.pad_w,
                          c_count, v, v_plane);
          for (int point = 0; point < kWinogradPoints; ++point) {
            if (!parts.has_term(part, point)) continue;
            for (int64_t b = b0; b < b1; ++b) {
              const float* gradient = w + ((b - b0) * kWinogradPoints + point) * g_plane;
              for (int64_t c = 0; c < c_count; c += kWinogradRows) {
                const float* a[kWinogradRows];
                for (int i = 0; i < kWinogradRows; ++i) {
                  a[i] = v + point * v_plane + std::min(c + i, c_count - 1);
                }
                float* sum = sums_at(tile_share, b, part, point) + c * kBlock;
                for (int64_t t = 0; t < count; t += kSumTiles) {
                  const int64_t terms = std::min(kSumTiles, count - t);
                  multiply<true, kVecs>(a, row, gradient + t * kBlock, terms, sum);
                  for (int i = 0; i < kWinogradRows; ++i) a[i] += kSumTiles * row;
                }
              }
            }
          }
        }
      }
    }
  });

  if (grad_bias != nullptr) {
    for (int64_t k = 0; k < k_count; ++k) {
      float total = 0.0f;
      for (int i = 0; i < shares.tiles; ++i) total += bias_sums[i * blocks * kBlock + k];
      from_float(total, grad_bias + k);
    }
  }
  if (grad_weight == nullptr) return true;
  std::atomic<bool> is_finite{true};
  constexpr int64_t kChunk = 8;
  const int64_t chunks = (c_count + kChunk - 1) / kChunk;
  parallel_for(blocks * chunks * parts.count(), threads, [&](int64_t begin, int64_t end, int) {
    float taps[kChunk][9][kMostVecs * kLanes];
    Vec rest = {};
    for (int64_t task = begin; task < end; ++task) {
      const int p = static_cast<int>(task % parts.count());
      const FilterPart& part = parts[p];
      const int64_t b = task / parts.count() / chunks, k0 = b * kBlock;
      const int64_t first = task / parts.count() % chunks * kChunk;
      const int64_t count = std::min(kChunk, c_count - first);
      const int64_t channels = std::min(kBlock, k_count - k0);
      for (int64_t c = 0; c < count; ++c) {
        for (int64_t k = 0; k < kBlock; k += kLanes) {
          Vec m[4][4], g[3][3];
          FASTMODEL_UNROLL
          for (int i = 0; i < kWinogradPoints; ++i) {
            Vec total = {};
            for (int share = 0; share < shares.tiles; ++share) {
              total += load(sums_at(share, b, p, i) + (first + c) * kBlock + k);
            }
            m[i / 4][i % 4] = total;
          }
          transform_filter_gradient(m, part, g);
          FASTMODEL_UNROLL
          for (int tap = 0; tap < 9; ++tap) {
            rest += g[tap / 3][tap % 3] - g[tap / 3][tap % 3];
            store(&taps[c][tap][k], g[tap / 3][tap % 3]);
          }
        }
      }
      for (int64_t k = 0; k < channels; ++k) {
        for (int64_t c = 0; c < count; ++c) {
          T* to = grad_weight + (k0 + k) * stride.d0 + (first + c) * stride.d1;
          for (int64_t r = 0; r < part.taps_r; ++r) {
            for (int64_t s = 0; s < part.taps_s; ++s) {
              from_float(taps[c][r * 3 + s][k],
                         to + (part.r + r) * stride.d2 + (part.s + s) * stride.d3);
            }
          }
        }
      }
    }
    if (!all_finite(rest)) is_finite = false;
  });
  return is_finite;
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
