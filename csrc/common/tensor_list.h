// Elementwise work over the flat arrays of several tables (an optimizer's parameter groups), shared
// among threads by elements, not by tensors or groups: one huge tensor or a thousand tiny ones keep
// every thread equally busy, in one parallel region.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/tensor_table.h"
#include "common/threads.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Threads take chunks of this many elements. Starting a parallel region costs some microseconds,
// and the leanest sweep (4 bytes an element) takes a core about half as long for a chunk; 28 bytes
// an element of a chunk stay within L2.
constexpr int64_t kChunkElements = 1 << 14;

// Pieces begin at a multiple of this inside a tensor: whole cache lines and whole vectors.
constexpr int64_t kPieceAlignment = 64;

class TensorList {
 public:
  explicit TensorList(std::vector<const TensorTable*> tables) : tables_(std::move(tables)) {
    size_t rows = 0;
    for (const TensorTable* table : tables_) rows += table->sizes.size();
    rows_.reserve(rows);
    starts_.reserve(rows + 1);
    starts_.push_back(0);
    for (uint32_t g = 0; g < tables_.size(); ++g) {
      for (uint32_t t = 0; t < tables_[g]->sizes.size(); ++t) {
        rows_.push_back({g, t});
        starts_.push_back(starts_.back() + tables_[g]->sizes[t]);
      }
    }
  }

  int64_t chunks() const { return (starts_.back() + kChunkElements - 1) / kChunkElements; }

  // Calls body(table, tensor, begin, end) for the pieces of one chunk, in order. Every element is
  // in a piece of one chunk.
  template <typename Body>
  void for_each_piece(int64_t chunk, const Body& body) const {
    const int64_t begin = chunk * kChunkElements;
    const int64_t end = std::min(begin + kChunkElements, starts_.back());
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), begin);
    for (size_t r = after - starts_.begin() - 1; r < rows_.size() && starts_[r] < end; ++r) {
      const int64_t size = starts_[r + 1] - starts_[r];
      const int64_t from = aligned(std::max<int64_t>(begin - starts_[r], 0), size);
      const int64_t to = aligned(std::min(end - starts_[r], size), size);
      if (from < to) body(rows_[r].table, rows_[r].tensor, from, to);
    }
  }

  // Do two parameters share memory?
  bool have_params_overlap() const {
    std::vector<std::pair<const char*, const char*>> ranges;
    ranges.reserve(rows_.size());
    for (const Row& row : rows_) {
      const TensorTable& table = *tables_[row.table];
      const char* const first = static_cast<const char*>(table.columns[0][row.tensor]);
      const int64_t size = table.sizes[row.tensor];
      if (size > 0) ranges.emplace_back(first, first + size * element_bytes(table.dtype));
    }
    if (!std::is_sorted(ranges.begin(), ranges.end())) std::sort(ranges.begin(), ranges.end());
    for (size_t i = 1; i < ranges.size(); ++i) {
      if (ranges[i].first < ranges[i - 1].second) return true;
    }
    return false;
  }

 private:
  struct Row {
    uint32_t table, tensor;
  };

  static int64_t aligned(int64_t offset, int64_t size) {
    return std::min((offset + kPieceAlignment - 1) / kPieceAlignment * kPieceAlignment, size);
  }

  std::vector<const TensorTable*> tables_;
  std::vector<Row> rows_;
  std::vector<int64_t> starts_;  // of each row among all elements, and the total
};

// Threads take this many chunks in a row where there are enough of them: memory delivers long runs
// faster: Adam on 25 tensors of 1M elements, two cores of an AMD EPYC (Zen 5), gains 4 to 8 % with
// 16 instead of 1, and no more with 64. A thread takes some 32 runs or more: all end together.
inline int64_t chunks_in_a_row(int64_t chunks, int threads) {
  return std::clamp<int64_t>(chunks / (32 * int64_t{threads}), 1, 16);
}

// Calls body(chunk) for every chunk in [0, chunks), in order on one thread, else as threads come
// free: a core that is disturbed takes fewer. body must not throw.
template <typename Body>
void for_each_chunk(int64_t chunks, int threads, const Body& body) {
  threads = static_cast<int>(std::min<int64_t>(threads, chunks));
  if (threads <= 1) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk);
    return;
  }
  std::atomic<int64_t> next{0};
  const int64_t run = chunks_in_a_row(chunks, threads);
  on_team(threads, [&](int, int) {
    for (int64_t from; (from = next.fetch_add(run, std::memory_order_relaxed)) < chunks;) {
      for (int64_t chunk = from; chunk < std::min(from + run, chunks); ++chunk) body(chunk);
    }
  });
}

// Calls body(table, tensor, begin, end) so that every element of every tensor is covered once.
// Where two parameters share memory they are stepped one after the other, in order, as PyTorch
// does.
template <typename Body>
void for_each_share(std::vector<const TensorTable*> tables, int threads, const Body& body) {
  const TensorList list(std::move(tables));
  if (threads > 1 && list.chunks() > 1 && list.have_params_overlap()) threads = 1;
  for_each_chunk(list.chunks(), threads, [&](int64_t chunk) { list.for_each_piece(chunk, body); });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
