// Products of a linear layer on the CPU: the panels that both passes are made of, and backward,
// which runs over rows whose in_features are contiguous: no operand is repacked.
//
// FLOPs: 2 * rows * in * out forward, twice that backward. Bytes: weight dominates at training
// batches (it is read once forward, read and written once backward); at 64 rows that is 32 FLOP a
// byte of float32 weight, above the ridge of a desktop or server core, so the FMA ports are the
// floor.
#pragma once

#include <memory>

#include "common/threads.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// 2 FMA ports x 4 cycles latency want at least 8 accumulators in flight; the tiles take what the
// register file leaves beside their operands (32 registers with AVX-512, 16 below).
#if defined(__AVX512F__)
constexpr int kPanelRows = 6, kPanelVecs = 4;
#else
constexpr int kPanelRows = 4, kPanelVecs = 2;
#endif

// Half of a 48 KiB L1, beside the rows of the other operand and the sums.
constexpr int64_t kPackFloats = 6144;
// Rows whose sums wait together: at most 128 KiB for a panel.
constexpr int64_t kSumRows = 512;

struct LinearShape {
  int64_t rows, in_features, out_features;
};

// c[r][0 .. kVecs vectors) = sum over k of a(r, k) * b[k][...], a(r, k) = a[r * a_row + k * a_k],
// added to what c holds if is_sum. Only the first `lanes` lanes of the last vector are read and
// written.
template <int kRows, int kVecs, typename A, typename B, typename C>
void panel_tile(const A* a, int64_t a_row, int64_t a_k, const B* b, int64_t ldb, int64_t depth,
                C* c, int64_t ldc, int lanes, bool is_sum) {
  Vec acc[kRows][kVecs];
  FASTMODEL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) acc[r][v] = Vec{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec bv[kVecs];
    FASTMODEL_UNROLL
    for (int v = 0; v + 1 < kVecs; ++v) bv[v] = load(b + k * ldb + v * kLanes);
    bv[kVecs - 1] = load_first(b + k * ldb + (kVecs - 1) * kLanes, lanes);
    FASTMODEL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec av = broadcast(to_float(a[r * a_row + k * a_k]));
      FASTMODEL_UNROLL
      for (int v = 0; v < kVecs; ++v) acc[r][v] += av * bv[v];
    }
  }
  if (is_sum) {
    FASTMODEL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTMODEL_UNROLL
      for (int v = 0; v + 1 < kVecs; ++v) acc[r][v] += load(c + r * ldc + v * kLanes);
      acc[r][kVecs - 1] += load_first(c + r * ldc + (kVecs - 1) * kLanes, lanes);
    }
  }
  FASTMODEL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FASTMODEL_UNROLL
    for (int v = 0; v + 1 < kVecs; ++v) store(c + r * ldc + v * kLanes, acc[r][v]);
    store_first(c + r * ldc + (kVecs - 1) * kLanes, acc[r][kVecs - 1], lanes);
  }
}

template <int kVecs, typename A, typename B, typename C>
void panel(const A* a, int64_t a_row, int64_t a_k, int64_t rows, const B* b, int64_t ldb,
           int64_t depth, C* c, int64_t ldc, int lanes, bool is_sum = false) {
  int64_t r = 0;
  for (; r + kPanelRows <= rows; r += kPanelRows) {
    panel_tile<kPanelRows, kVecs>(a + r * a_row, a_row, a_k, b, ldb, depth, c + r * ldc, ldc, lanes,
                                  is_sum);
  }
  for (; r + 2 <= rows; r += 2) {
    panel_tile<2, kVecs>(a + r * a_row, a_row, a_k, b, ldb, depth, c + r * ldc, ldc, lanes, is_sum);
  }
  for (; r < rows; ++r) {
    panel_tile<1, kVecs>(a + r * a_row, a_row, a_k, b, ldb, depth, c + r * ldc, ldc, lanes, is_sum);
  }
}

// Columns [column, column + width) of c = a b, width at most kPanelVecs vectors.
template <typename A, typename T>
void panel_columns(const A* a, int64_t a_row, int64_t a_k, int64_t rows, const T* b, int64_t depth,
                   T* c, int64_t columns, int64_t column) {
  const int64_t width = std::min<int64_t>(columns - column, kPanelVecs * kLanes);
  if (width == kPanelVecs * kLanes) {
    panel<kPanelVecs>(a, a_row, a_k, rows, b + column, columns, depth, c + column, columns, kLanes);
    return;
  }
  for (int64_t i = column; i < column + width; i += kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, column + width - i));
    panel<1>(a, a_row, a_k, rows, b + i, columns, depth, c + i, columns, lanes);
  }
}

// As panel_columns, for products that L1 does not hold: a stretch of b's rows at a time is copied
// side by side into a pack that lies in L1 while kSumRows rows of a go over it. `pack` has room for
// kPackFloats, `sums` for kSumRows rows of a panel.
template <typename A, typename T>
void blocked_columns(const A* a, int64_t a_row, int64_t a_k, int64_t rows, const T* b,
                     int64_t depth, T* c, int64_t columns, int64_t column, float* pack,
                     float* sums) {
  constexpr int64_t kWidth = kPanelVecs * kLanes, kDepth = kPackFloats / kWidth;
  const int64_t width = std::min(columns - column, kWidth);
  for (int64_t first = 0; first < rows; first += kSumRows) {
    const int64_t some = std::min(kSumRows, rows - first);
    for (int64_t k = 0; k < depth; k += kDepth) {
      const int64_t deep = std::min(kDepth, depth - k);
      for (int64_t i = 0; i < deep; ++i) {
        for (int64_t v = 0; v < kWidth; v += kLanes) {
          const int lanes = static_cast<int>(std::clamp<int64_t>(width - v, 0, kLanes));
          store(pack + i * kWidth + v, load_first(b + (k + i) * columns + column + v, lanes));
        }
      }
      panel<kPanelVecs>(a + first * a_row + k * a_k, a_row, a_k, some, pack, kWidth, deep, sums,
                        kWidth, kLanes, k > 0);
    }
    for (int64_t r = 0; r < some; ++r) {
      for (int64_t v = 0; v < width; v += kLanes) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, width - v));
        store_first(c + (first + r) * columns + column + v, load(sums + r * kWidth + v), lanes);
      }
    }
  }
}

// Rows from which grad_weight is made in stretches of them: 2 cores of an EPYC 9005, 2,048 rows of
// 128 to 512: 474 GFLOP/s against 347, of 512 to 128: 455 against 290; at 512 rows of 1,600 to 128
// it is 426 against 448. grad_x, whose depth is out_features, gains nothing by it.
constexpr int64_t kBlockedRows = 1024;

// grad_x = g weight and grad_weight = g^T x, each unless null; g is (rows, out_features).
template <typename G, typename T>
void linear_backward(const G* g, const T* x, const T* weight, T* grad_x, T* grad_weight,
                     LinearShape shape, int threads) {
  const int64_t rows = shape.rows, in = shape.in_features, outs = shape.out_features;
  constexpr int64_t kWidth = kPanelVecs * kLanes;
  const bool is_blocked = grad_weight != nullptr && rows >= kBlockedRows;
  parallel_for((in + kWidth - 1) / kWidth, threads, [&](int64_t begin, int64_t end, int) {
    const std::unique_ptr<float[]> pack(is_blocked ? new float[kPackFloats] : nullptr);
    const std::unique_ptr<float[]> sums(is_blocked ? new float[kSumRows * kWidth] : nullptr);
    for (int64_t column = begin * kWidth; column < std::min(end * kWidth, in); column += kWidth) {
      if (grad_x != nullptr) panel_columns(g, outs, 1, rows, weight, outs, grad_x, in, column);
      if (is_blocked) {
        blocked_columns(g, 1, outs, outs, x, rows, grad_weight, in, column, pack.get(), sums.get());
      } else if (grad_weight != nullptr) {
        panel_columns(g, 1, outs, outs, x, rows, grad_weight, in, column);
      }
    }
  });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
