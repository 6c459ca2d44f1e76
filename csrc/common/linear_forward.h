// Forward of a linear layer and an activation on the CPU.
//
// Each thread takes outputs of its own. Their rows of the weight are transposed, a stretch of
// in_features at a time, into a pack that lies in L1 while all rows of x go over it (panels of
// linear.h): FMAs alone, on whole vectors of outputs, which then pass the activation together. The
// pack costs one load, log2(kLanes) shuffles and one store a vector of the weight, which a few rows
// would not earn back: those take dot products along in_features.
#pragma once

#include <memory>

#include "common/linear.h"
#include "common/transpose_block.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

#if defined(__AVX512F__)
constexpr int kDotRows = 4, kDotOuts = 4;
#else
constexpr int kDotRows = 4, kDotOuts = 2;
#endif

constexpr int64_t kMostDotRows = 20;

// acc[r][o] = sum over i of x[r][i] * w[o][i] for a small tile of rows and outputs.
template <int kRows, int kOuts, typename T>
void dot_tile(const T* x, const T* w, int64_t in, float (&result)[kDotRows][kDotOuts]) {
  Vec acc[kRows][kOuts];
  FASTMODEL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FASTMODEL_UNROLL
    for (int o = 0; o < kOuts; ++o) acc[r][o] = Vec{};
  }
  int64_t i = 0;
  for (; i + kLanes <= in; i += kLanes) {
    Vec wv[kOuts];
    FASTMODEL_UNROLL
    for (int o = 0; o < kOuts; ++o) wv[o] = load(w + o * in + i);
    FASTMODEL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec xv = load(x + r * in + i);
      FASTMODEL_UNROLL
      for (int o = 0; o < kOuts; ++o) acc[r][o] += xv * wv[o];
    }
  }
  if (i < in) {
    const int left = static_cast<int>(in - i);
    FASTMODEL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec xv = load_first(x + r * in + i, left);
      FASTMODEL_UNROLL
      for (int o = 0; o < kOuts; ++o) acc[r][o] += xv * load_first(w + o * in + i, left);
    }
  }
  FASTMODEL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FASTMODEL_UNROLL
    for (int o = 0; o < kOuts; ++o) result[r][o] = sum(acc[r][o]);
  }
}

// sums[r][0 .. count) = the products of `rows` rows of x with `count` rows of w.
template <typename T>
void dot_columns(const T* x, const T* w, int64_t rows, int64_t count, int64_t in, float* sums,
                 int64_t sums_row) {
  float tile[kDotRows][kDotOuts];
  for (int64_t o = 0; o < count; o += kDotOuts) {
    const bool is_whole = o + kDotOuts <= count;
    int64_t m = 0;
    for (; is_whole && m + kDotRows <= rows; m += kDotRows) {
      dot_tile<kDotRows, kDotOuts>(x + m * in, w + o * in, in, tile);
      for (int r = 0; r < kDotRows; ++r) {
        for (int c = 0; c < kDotOuts; ++c) sums[(m + r) * sums_row + o + c] = tile[r][c];
      }
    }
    for (; m < rows; ++m) {
      for (int64_t c = o; c < std::min<int64_t>(o + kDotOuts, count); ++c) {
        dot_tile<1, 1>(x + m * in, w + c * in, in, tile);
        sums[m * sums_row + c] = tile[0][0];
      }
    }
  }
}

// As dot_columns, for at most kVecs vectors of outputs; `pack` has room for kPackFloats.
template <int kVecs, typename T>
void packed_columns(const T* x, const T* w, int64_t rows, int64_t count, int64_t in, float* sums,
                    float* pack) {
  constexpr int64_t kWidth = kVecs * kLanes;
  constexpr int64_t kDepth = kPackFloats / kWidth / kLanes * kLanes;
  for (int64_t k = 0; k < in || k == 0; k += kDepth) {
    const int64_t depth = std::min(kDepth, in - k);
    for (int64_t o = 0; o < kWidth; o += kLanes) {
      const int outs = static_cast<int>(std::max<int64_t>(0, std::min<int64_t>(kLanes, count - o)));
      const T* block = w + o * in + k;
      for (int64_t i = 0; i < depth; i += kLanes, block += kLanes) {
        // Each block is a line of kLanes rows, more streams than the hardware follows.
        for (int r = 0; r < outs; ++r) __builtin_prefetch(block + r * in + 2 * kLanes);
        const int columns = static_cast<int>(std::min<int64_t>(kLanes, depth - i));
        transpose_block(block, in, outs, columns, pack + i * kWidth + o, kWidth, kLanes);
      }
    }
    panel<kVecs>(x + k, in, 1, rows, pack, kWidth, depth, sums, kWidth, kLanes, k > 0);
  }
}

// packed_columns for as many vectors of outputs as `vecs` says, at most kVecs.
template <int kVecs, typename T>
void packed_columns_of(int64_t vecs, const T* x, const T* w, int64_t rows, int64_t count,
                       int64_t in, float* sums, float* pack) {
  if constexpr (kVecs > 1) {
    if (vecs < kVecs) {
      return packed_columns_of<kVecs - 1>(vecs, x, w, rows, count, in, sums, pack);
    }
  }
  packed_columns<kVecs>(x, w, rows, count, in, sums, pack);
}

// out = activation(pre), pre = x weight^T + bias; bias and pre may be null.
template <typename Activation, typename T>
void linear_forward(const T* x, const T* weight, const T* bias, T* out, T* pre, LinearShape shape,
                    int threads) {
  const int64_t in = shape.in_features, outs = shape.out_features;
  const int64_t most_rows = std::min(kSumRows, shape.rows);
  constexpr int64_t kWidth = kPanelVecs * kLanes;
  parallel_for((outs + kLanes - 1) / kLanes, threads, [&](int64_t begin, int64_t end, int) {
    // Lanes behind the last output are never written and stay 0.
    const std::unique_ptr<float[]> sums(new float[most_rows * kWidth]());
    const std::unique_ptr<float[]> pack(new float[kPackFloats]);
    for (int64_t vec = begin; vec < end;) {
      const int64_t vecs = std::min<int64_t>(kPanelVecs, end - vec), width = vecs * kLanes;
      const int64_t o = vec * kLanes, count = std::min(width, outs - o);
      const T* w = weight + o * in;
      for (int64_t first = 0; first < shape.rows; first += kSumRows) {
        const int64_t rows = std::min(kSumRows, shape.rows - first);
        const T* from = x + first * in;
        if (rows <= kMostDotRows) {
          dot_columns(from, w, rows, count, in, sums.get(), width);
        } else {
          packed_columns_of<kPanelVecs>(vecs, from, w, rows, count, in, sums.get(), pack.get());
        }
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < count; c += kLanes) {
            const int lanes = static_cast<int>(std::min<int64_t>(kLanes, count - c));
            const int64_t at = (first + r) * outs + o + c;
            Vec z = load(sums.get() + r * width + c);
            if (bias != nullptr) z += load_first(bias + o + c, lanes);
            if (pre != nullptr) store_first(pre + at, z, lanes);
            store_first(out + at, Activation::value(z), lanes);
          }
        }
      }
      vec += vecs;
    }
  });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
