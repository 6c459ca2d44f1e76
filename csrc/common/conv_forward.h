// Direct convolution: a register tile of a few pixels x a block of output channels, over packed
// filters.
//
// Every filter element costs one vector load per channel vector and one broadcast per pixel, shared
// by pixels x vectors FMAs: a 4 x 4 tile runs 16 FMAs on 8 loads, within 2 loads and 2 FMAs a
// cycle.
#pragma once

#include <memory>

#include "common/conv_image.h"
#include "common/threads.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Accumulators = pixels x vectors, at least 8 in flight (2 FMA ports x 4 cycles latency) beside one
// filter vector per channel vector and one broadcast, within the register file (32, or 16 before
// AVX-512).
#if defined(__AVX512F__)
constexpr int kMostVecs = 4;
constexpr int kRowPixels = 6;
#else
constexpr int kMostVecs = 2;
constexpr int kRowPixels = 4;
#endif

// Filters as [channel block][run][element][channel in block], bias as [channel block][channel in
// block]; the last block is filled up with zeros.
struct PackedFilters {
  int64_t block;  // channels in a block
  int64_t blocks;
  std::unique_ptr<float[]> weight, bias;
};

// The widest block that computes the fewest padding channels.
inline int filter_vectors(int64_t k) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (int vectors = 1; vectors <= kMostVecs; vectors *= 2) {
    const int64_t block = vectors * kLanes;
    const int64_t padded = (k + block - 1) / block * block;
    if (padded <= least) {
      least = padded;
      best = vectors;
    }
  }
  return best;
}

template <typename T>
PackedFilters pack_filters(const T* weight, const Strides& stride, const T* bias,
                           const ConvShape& shape, int vectors, int threads) {
  const int64_t block = vectors * kLanes;
  const int64_t blocks = (shape.k + block - 1) / block;
  PackedFilters packed{block, blocks, nullptr, nullptr};
  packed.weight.reset(new float[blocks * shape.patch() * block]);
  packed.bias.reset(new float[blocks * block]);
  for (int64_t k = 0; k < blocks * block; ++k) {
    packed.bias[k] = bias != nullptr && k < shape.k ? to_float(bias[k]) : 0.0f;
  }
  parallel_for(blocks * shape.r * shape.s, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / (shape.r * shape.s) * block;
      const int64_t tap = task % (shape.r * shape.s);
      const T* from = weight + tap / shape.s * stride.d2 + tap % shape.s * stride.d3;
      float* to = packed.weight.get() + task * shape.c * block;
      const int64_t channels = std::min(block, shape.k - first);
      for (int64_t c = 0; c < shape.c; ++c) {
        for (int64_t i = 0; i < channels; ++i) {
          to[c * block + i] = to_float(from[(first + i) * stride.d0 + c * stride.d1]);
        }
        std::fill(to + c * block + channels, to + (c + 1) * block, 0.0f);
      }
    }
  });
  return packed;
}

// acc[pixel][channel vector] = bias + the pixel's patch times the filters. kRuns and kLength are
// the runs' sizes where they are known at compile time (first layers: everything unrolls), else 0.
template <int kPixels, int kVecs, int kRuns = 0, int kLength = 0>
FASTMODEL_INLINE void conv_tile(const float* const (&pixel)[kPixels], const Runs& runs,
                                const float* weight, const float* bias,
                                Vec (&acc)[kPixels][kVecs]) {
  FASTMODEL_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) acc[i][v] = load(bias + v * kLanes);
  }
  const auto step = [&](int64_t element) __attribute__((always_inline)) {
    Vec w[kVecs];
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) w[v] = load(weight + v * kLanes);
    weight += kVecs * kLanes;
    FASTMODEL_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const Vec x = broadcast(pixel[i][element]);
      FASTMODEL_UNROLL
      for (int v = 0; v < kVecs; ++v) acc[i][v] += x * w[v];
    }
  };
  if constexpr (kRuns > 0) {
    FASTMODEL_UNROLL
    for (int run = 0; run < kRuns; ++run) {
      const int64_t offset = runs.offset[run];
      FASTMODEL_UNROLL
      for (int e = 0; e < kLength; ++e) step(offset + e);
    }
  } else {
    for (int64_t run = 0; run < runs.count; ++run) {
      const int64_t offset = runs.offset[run];
      for (int64_t e = 0; e < runs.length; ++e) step(offset + e);
    }
  }
}

// Calls body(image, n, row) for every (image, output row) on the threads' static shares; `image` is
// the padded image with the input rows of that output row in place. `rows` output rows an image,
// each of which reads `span` input rows from row * step on.
template <typename T, typename Body>
void for_each_row(const T* x, const Strides& stride, const ConvShape& shape, int64_t rows,
                  int64_t step, int64_t span, int threads, const Body& body) {
  const ImageReader<T> reader(x, stride, shape);
  const int64_t floats = reader.scratch_floats();
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(threads, shape.n * rows));
  const std::unique_ptr<float[]> scratch(new float[floats * shares]);
  parallel_for(shape.n * rows, threads, [&](int64_t begin, int64_t end, int thread) {
    float* own = scratch.get() + floats * thread;
    while (begin < end) {
      const int64_t n = begin / rows, first = begin % rows;
      const int64_t last = std::min(rows, first + end - begin);
      const float* image = reader.read(n, first * step, (last - 1) * step + span, own);
      for (int64_t row = first; row < last; ++row) body(image, n, row);
      begin += last - first;
    }
  });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
