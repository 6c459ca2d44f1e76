// Blocks of a matrix, transposed in registers: kLanes loads, log2(kLanes) shuffles a vector, kLanes
// stores, where element by element it is kLanes times as many stores.
#pragma once

#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// One perfect shuffle of the rows: it turns the bits of (row, lane) round by one.
FASTMODEL_INLINE void shuffle_rows(Vec (&rows)[kLanes]) {
  Vec next[kLanes];
  FASTMODEL_UNROLL
  for (int i = 0; i < kLanes / 2; ++i) {
    next[2 * i] = interleave_low(rows[i], rows[i + kLanes / 2]);
    next[2 * i + 1] = interleave_high(rows[i], rows[i + kLanes / 2]);
  }
  FASTMODEL_UNROLL
  for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
}

// rows[i][j] becomes rows[j][i].
FASTMODEL_INLINE void transpose_lanes(Vec (&rows)[kLanes]) {
  shuffle_rows(rows);
  shuffle_rows(rows);
  if constexpr (kLanes > 4) shuffle_rows(rows);
  if constexpr (kLanes > 8) shuffle_rows(rows);
}

// to[c][r] = from[r][c] for `rows` x `columns` elements, each at most kLanes; every row of `to`
// takes `written` lanes, those behind `rows` as 0.
template <typename T>
FASTMODEL_INLINE void transpose_block(const T* from, int64_t from_stride, int rows, int columns,
                                      float* to, int64_t to_stride, int written) {
  Vec block[kLanes];
  if (rows == kLanes && columns == kLanes) {
    FASTMODEL_UNROLL
    for (int r = 0; r < kLanes; ++r) block[r] = load(from + r * from_stride);
    transpose_lanes(block);
    FASTMODEL_UNROLL
    for (int c = 0; c < kLanes; ++c) store_first(to + c * to_stride, block[c], written);
    return;
  }
  FASTMODEL_UNROLL
  for (int r = 0; r < kLanes; ++r) {
    block[r] = r < rows ? load_first(from + r * from_stride, columns) : Vec{};
  }
  transpose_lanes(block);
  FASTMODEL_UNROLL
  for (int c = 0; c < kLanes; ++c) {
    if (c < columns) store_first(to + c * to_stride, block[c], written);
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
