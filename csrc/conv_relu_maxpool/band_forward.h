// Forward where pool windows overlap or reach over padding: every pixel of the convolution is
// computed once.
//
// Rows of the convolution's output, with bias, go into a ring of pool_r rows that stays in L2 and
// are pooled from there; the next row of windows finds all but pool_stride of them in place.
//
// FLOPs: 2 * N * P * Q * K * C * R * S. Bytes: x, weight, out and argmax once. The output of the
// convolution is never in memory: against passes of their own this saves its write, the ReLU's
// read and write and the pool's read, 16 * N * P * Q * K bytes (12.8 MB an image at 64 channels of
// 112 x 112, where x, out and argmax together are 1.6 MB).
#pragma once

#include "common/conv_forward.h"
#include "common/workspace.h"
#include "conv_relu_maxpool/conv_relu_maxpool.h"
#include "conv_relu_maxpool/window_max.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Convolution rows of one image, each of Q pixels `stride` floats apart; row p lies at p % rows.
struct RowRing {
  float* data;
  int64_t rows, width, stride;

  float* row(int64_t p) const { return data + p % rows * width * stride; }
};

// Computes kPixels pixels from (*p, *q) on, row by row, and steps past them.
template <int kPixels, int kVecs, int kRuns, int kLength>
void conv_to_ring(const ConvShape& shape, const float* image, const Runs& runs, const float* weight,
                  const float* bias, const RowRing& ring, int64_t first, int64_t* p, int64_t* q) {
  const float* pixel[kPixels];
  float* to[kPixels];
  for (int i = 0; i < kPixels; ++i) {
    pixel[i] = image + pixel_offset(shape, *p, *q);
    to[i] = ring.row(*p) + *q * ring.stride + first;
    if (++*q == shape.q) {
      *q = 0;
      ++*p;
    }
  }
  Vec acc[kPixels][kVecs];
  conv_tile<kPixels, kVecs, kRuns, kLength>(pixel, runs, weight, bias, acc);
  FASTMODEL_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) store(to[i] + v * kLanes, acc[i][v]);
  }
}

// The last `count` <= kPixels pixels in one tile.
template <int kPixels, int kVecs, int kRuns, int kLength, typename... Args>
void conv_rest_to_ring(int64_t count, const Args&... args) {
  if (count == kPixels) return conv_to_ring<kPixels, kVecs, kRuns, kLength>(args...);
  if constexpr (kPixels > 1) conv_rest_to_ring<kPixels - 1, kVecs, kRuns, kLength>(count, args...);
}

template <int kVecs, int kRuns, int kLength, typename T>
void band_forward(const ConvReluMaxpoolForward& a) {
  const ConvShape& shape = a.shape;
  const PackedFilters filters =
      pack_filters(static_cast<const T*>(a.weight), a.weight_stride, static_cast<const T*>(a.bias),
                   shape, kVecs, a.threads);
  const Runs runs = filter_runs(shape);
  const int64_t span = (shape.r - 1) * shape.dilation_h + 1;
  const ImageReader<T> reader(static_cast<const T*>(a.x), a.x_stride, shape);
  const int64_t ring_stride = filters.blocks * filters.block;
  const int64_t ring_floats = shape.pool_r * shape.q * ring_stride;
  const int64_t own_floats = ring_floats + whole_lines(reader.scratch_floats());
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(a.threads, shape.n * shape.pp));
  const Workspace scratch(own_floats * shares);

  parallel_for(shape.n * shape.pp, a.threads, [&](int64_t begin, int64_t end, int thread) {
    const RowRing ring{scratch.get() + thread * own_floats, shape.pool_r, shape.q, ring_stride};
    int64_t next = 0, next_read = 0;  // the first rows not yet computed, not yet read
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / shape.pp, pp = task % shape.pp;
      if (pp == 0) next = next_read = 0;
      const Window window(shape, pp, 0);
      const int64_t from = std::max(next, window.h + window.begin_r);
      const int64_t to = window.h + window.end_r;
      const int64_t read_to = (to - 1) * shape.stride_h + span;
      const float* image = reader.read(n, std::max(next_read, from * shape.stride_h), read_to,
                                       ring.data + ring_floats);
      next = std::max(next, to);
      next_read = std::max(next_read, read_to);
      for (int64_t block = 0; block < filters.blocks; ++block) {
        const float* weight = filters.weight.get() + block * shape.patch() * filters.block;
        const float* bias = filters.bias.get() + block * filters.block;
        const int64_t first = block * filters.block;
        int64_t p = from, q = 0, left = (to - from) * shape.q;
        for (; left >= kRowPixels; left -= kRowPixels) {
          conv_to_ring<kRowPixels, kVecs, kRuns, kLength>(shape, image, runs, weight, bias, ring,
                                                          first, &p, &q);
        }
        conv_rest_to_ring<kRowPixels - 1, kVecs, kRuns, kLength>(left, shape, image, runs, weight,
                                                                 bias, ring, first, &p, &q);
      }
      const int64_t at = task * shape.pq * shape.k;
      pool_row(
          shape, pp, [&](int64_t row) { return ring.row(row); }, ring.stride,
          static_cast<T*>(a.out) + at, a.argmax + at);
    }
  });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
