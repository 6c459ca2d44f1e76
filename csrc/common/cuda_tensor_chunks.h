// Elementwise work over many tensors in one launch: a block a chunk, found through a table that
// goes along as the kernel's parameter. So a step copies nothing to the device, waits for nothing,
// and holds still under a CUDA graph.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/dtypes.h"
#include "common/host_device.h"

namespace fastmodel {

// Kernels' parameters are 32,764 bytes at most, and cheaper to hand over up to 4 KiB: a table of
// each size.
constexpr int kFewTensors = 40;

// A chunk is a power of two of elements between these, so that chunks begin at whole packs.
constexpr int64_t kMaxChunkElements = 1 << 14;
constexpr int64_t kMinChunkElements = 1 << 10;

template <int kColumns, int kCapacity>
struct ChunkTable {
  void* columns[kColumns][kCapacity];  // a tensor's addresses; null for a column that it has not
  int64_t sizes[kCapacity];
  int first_chunks[kCapacity + 1];  // of each tensor among all of the launch, and the total
  int tensors;
  int chunk_elements;
};

// The elements of one tensor that one block takes.
struct Chunk {
  int tensor;
  int64_t begin, end;
};

template <typename Table>
FASTMODEL_HOST_DEVICE Chunk chunk_of(const Table& table, int block) {
  int low = 0, high = table.tensors;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first_chunks[middle] <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int64_t begin =
      static_cast<int64_t>(block - table.first_chunks[low]) * table.chunk_elements;
  const int64_t end = begin + table.chunk_elements, size = table.sizes[low];
  return {low, begin, end < size ? end : size};
}

// Small lists are cut finer, so that every multiprocessor has four chunks.
inline int64_t chunk_elements_for(int64_t total, int multiprocessors) {
  int64_t elements = kMaxChunkElements;
  while (elements > kMinChunkElements && total < elements * 4 * multiprocessors) elements /= 2;
  return elements;
}

// Consecutive tensors that one launch takes.
struct LaunchRange {
  size_t begin, end;
};

// Every tensor in one launch, in order, at most `capacity` and 2^30 chunks in each; empty ones too.
inline std::vector<LaunchRange> launch_ranges(const std::vector<int64_t>& sizes,
                                              int64_t chunk_elements, size_t capacity) {
  std::vector<LaunchRange> ranges;
  int64_t chunks = 0;
  for (size_t t = 0; t < sizes.size(); ++t) {
    const int64_t own = (sizes[t] + chunk_elements - 1) / chunk_elements;
    const bool is_full = ranges.empty() || ranges.back().end - ranges.back().begin >= capacity ||
                         chunks + own > (int64_t{1} << 30);
    if (is_full) {
      ranges.push_back({t, t});
      chunks = 0;
    }
    ranges.back().end = t + 1;
    chunks += own;
  }
  return ranges;
}

// Do two tensors share memory? One launch would step them at once.
inline bool have_overlap(const std::vector<void*>& addresses, const std::vector<int64_t>& sizes,
                         int64_t element_bytes) {
  std::vector<std::pair<const char*, const char*>> ranges;
  ranges.reserve(sizes.size());
  for (size_t t = 0; t < sizes.size(); ++t) {
    const char* const first = static_cast<const char*>(addresses[t]);
    if (sizes[t] > 0) ranges.emplace_back(first, first + sizes[t] * element_bytes);
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) return true;
  }
  return false;
}

// Fills all but the columns.
template <typename Table>
void fill_chunks(Table* table, const std::vector<int64_t>& sizes, LaunchRange range,
                 int64_t chunk_elements) {
  table->tensors = static_cast<int>(range.end - range.begin);
  table->chunk_elements = static_cast<int>(chunk_elements);
  int chunks = 0;
  for (int i = 0; i < table->tensors; ++i) {
    const int64_t size = sizes[range.begin + i];
    table->sizes[i] = size;
    table->first_chunks[i] = chunks;
    chunks += static_cast<int>((size + chunk_elements - 1) / chunk_elements);
  }
  table->first_chunks[table->tensors] = chunks;
}

// Calls body(range, capacity) for each launch over these tensors; capacity is an integral constant,
// kFewTensors or kMany. Where `must_part`, each tensor has a launch of its own.
template <int kMany, typename Body>
void for_each_launch(const std::vector<int64_t>& sizes, int64_t chunk_elements, bool must_part,
                     const Body& body) {
  for (const LaunchRange range : launch_ranges(sizes, chunk_elements, must_part ? 1 : kMany)) {
    if (range.end - range.begin <= kFewTensors) {
      body(range, std::integral_constant<int, kFewTensors>());
    } else {
      body(range, std::integral_constant<int, kMany>());
    }
  }
}

inline int64_t total_of(const std::vector<int64_t>& sizes) {
  int64_t total = 0;
  for (const int64_t size : sizes) total += size;
  return total;
}

}  // namespace fastmodel
