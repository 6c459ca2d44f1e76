// Register tiles of a convolution's sparse gradients: a patch, or a part of it, over a list of live
// pairs.
#pragma once

#include <type_traits>

#include "common/conv_image.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

struct LivePair {
  int32_t offset;  // of the pixel's patch in the image, or of the filter in the packed weight
  float grad;
};

// A tile of up to kRuns runs x kVecs vectors of a patch: its accumulators fill the register file.
#if defined(__AVX512F__)
constexpr int kTileVecs = 6, kHalfTileVecs = 3;
constexpr int kTapTile = 9, kTapVecs = 2;
#else
constexpr int kTileVecs = 4, kHalfTileVecs = 2;
constexpr int kTapTile = 9, kTapVecs = 1;
#endif
constexpr int kTileRuns = 3;

// to[run r + v vectors] += sum over pairs of grad * source[offset + run r + v vectors].
template <int kRuns, int kVecs>
void live_tile(const LivePair* pairs, int64_t count, const float* source, const int64_t* source_run,
               float* to, const int64_t* to_run, int lanes) {
  constexpr int kLast = kVecs - 1;
  Vec acc[kRuns][kVecs];
  FASTMODEL_UNROLL
  for (int r = 0; r < kRuns; ++r) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kLast; ++v) acc[r][v] = load(to + to_run[r] + v * kLanes);
    acc[r][kLast] = load_first(to + to_run[r] + kLast * kLanes, lanes);
  }
  for (int64_t i = 0; i < count; ++i) {
    const Vec g = broadcast(pairs[i].grad);
    const float* from = source + pairs[i].offset;
    FASTMODEL_UNROLL
    for (int r = 0; r < kRuns; ++r) {
      FASTMODEL_UNROLL
      for (int v = 0; v < kLast; ++v) acc[r][v] += g * load(from + source_run[r] + v * kLanes);
      acc[r][kLast] += g * load_first(from + source_run[r] + kLast * kLanes, lanes);
    }
  }
  FASTMODEL_UNROLL
  for (int r = 0; r < kRuns; ++r) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kLast; ++v) store(to + to_run[r] + v * kLanes, acc[r][v]);
    store_first(to + to_run[r] + kLast * kLanes, acc[r][kLast], lanes);
  }
}

// to[offset + run r + v vectors] += grad * from[run r + v vectors] for each pair: one load and one
// store for an FMA. kIsWhole: all vectors have all lanes (a masked store could not be forwarded to
// the next pair's load).
template <int kRuns, int kVecs, bool kIsWhole>
void scatter_tile(const LivePair* pairs, int64_t count, const float* from, const int64_t* from_run,
                  float* to, const int64_t* to_run, int lanes) {
  constexpr int kLast = kIsWhole ? kVecs : kVecs - 1;
  Vec w[kRuns][kVecs];
  FASTMODEL_UNROLL
  for (int r = 0; r < kRuns; ++r) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kLast; ++v) w[r][v] = load(from + from_run[r] + v * kLanes);
    if constexpr (!kIsWhole) {
      w[r][kLast] = load_first(from + from_run[r] + kLast * kLanes, lanes);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const Vec g = broadcast(pairs[i].grad);
    float* at = to + pairs[i].offset;
    FASTMODEL_UNROLL
    for (int r = 0; r < kRuns; ++r) {
      float* run = at + to_run[r];
      FASTMODEL_UNROLL
      for (int v = 0; v < kLast; ++v) store(run + v * kLanes, load(run + v * kLanes) + g * w[r][v]);
      if constexpr (!kIsWhole) {
        float* last = run + kLast * kLanes;
        store_first(last, load_first(last, lanes) + g * w[r][kLast], lanes);
      }
    }
  }
}

// Covers a patch with tiles: calls body(runs, vectors, run, element, lanes), the first two as
// compile-time constants, for the tile at that run and element whose last vector has that many
// lanes.
template <int kRuns, int kVecs, typename Body>
void for_each_column(int64_t run, int64_t length, int64_t* element, const Body& body) {
  for (; *element + kVecs * kLanes <= length; *element += kVecs * kLanes) {
    body(std::integral_constant<int, kRuns>(), std::integral_constant<int, kVecs>(), run, *element,
         kLanes);
  }
}

// The last elements of a run in one tile: fewer accumulators would wait for each other.
template <int kRuns, int kVecs, typename Body>
void for_last_column(int64_t run, int64_t length, int64_t element, const Body& body) {
  const int64_t lanes = length - element - (kVecs - 1) * kLanes;
  if (lanes > 0) {
    body(std::integral_constant<int, kRuns>(), std::integral_constant<int, kVecs>(), run, element,
         static_cast<int>(lanes));
  } else if constexpr (kVecs > 1) {
    for_last_column<kRuns, kVecs - 1>(run, length, element, body);
  }
}

template <int kRuns, typename Body>
void for_each_tile_of(int64_t run, int64_t length, bool is_narrow, const Body& body) {
  int64_t e = 0;
  if (is_narrow) {
    for_each_column<kRuns, kHalfTileVecs>(run, length, &e, body);
    for_last_column<kRuns, kHalfTileVecs>(run, length, e, body);
  } else {
    for_each_column<kRuns, kTileVecs>(run, length, &e, body);
    for_last_column<kRuns, kTileVecs>(run, length, e, body);
  }
}

template <typename Body>
void for_each_tile(const Runs& runs, bool is_narrow, const Body& body) {
  int64_t r = 0;
  for (; r + kTileRuns <= runs.count; r += kTileRuns) {
    for_each_tile_of<kTileRuns>(r, runs.length, is_narrow, body);
  }
  for (; r < runs.count; ++r) for_each_tile_of<1>(r, runs.length, is_narrow, body);
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
