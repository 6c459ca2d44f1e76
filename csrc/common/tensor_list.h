// Elementwise work over a list of flat arrays (an optimizer's parameters), shared among threads by
// elements, not by tensors: one huge tensor or a thousand tiny ones keep every thread equally busy.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/tensor_table.h"
#include "common/threads.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Starting a parallel region costs some microseconds; 16 Ki elements of the leanest optimizer step
// (12 bytes each) take a core about as long, so a thread gets at least that many.
constexpr int64_t kElementsPerThread = 1 << 14;

// Shares begin at a multiple of this inside a tensor: whole cache lines and whole vectors.
constexpr int64_t kShareAlignment = 64;

// Do any two of the byte ranges [first, second) overlap?
inline bool any_overlap(std::vector<std::pair<const char*, const char*>> ranges) {
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) return true;
  }
  return false;
}

// Calls body(tensor, begin, end) so that every element of every tensor is covered once. Where two
// parameters (the first column, of `element_bytes` an element) share memory they are stepped one
// after the other, in order, as PyTorch does.
template <typename Body>
void for_each_share(const TensorTable& tensors, int64_t element_bytes, int threads,
                    const Body& body) {
  const std::vector<int64_t>& sizes = tensors.sizes;
  std::vector<int64_t> starts;
  starts.reserve(sizes.size() + 1);
  int64_t total = 0;
  for (const int64_t size : sizes) {
    starts.push_back(total);
    total += size;
  }
  starts.push_back(total);

  threads = static_cast<int>(std::min<int64_t>(threads, total / kElementsPerThread));
  if (threads > 1) {
    std::vector<std::pair<const char*, const char*>> ranges;
    ranges.reserve(sizes.size());
    for (size_t t = 0; t < sizes.size(); ++t) {
      const char* first = static_cast<const char*>(tensors.columns[0][t]);
      if (sizes[t] > 0) ranges.emplace_back(first, first + sizes[t] * element_bytes);
    }
    if (any_overlap(std::move(ranges))) threads = 1;
  }
  const auto aligned = [](int64_t offset, int64_t size) {
    return std::min((offset + kShareAlignment - 1) / kShareAlignment * kShareAlignment, size);
  };
  // With one thread parallel_for makes one share of everything, walked in order.
  parallel_for(total, threads, [&](int64_t begin, int64_t end, int) {
    const auto after = std::upper_bound(starts.begin(), starts.end(), begin);
    for (size_t t = after - starts.begin() - 1; t < sizes.size() && starts[t] < end; ++t) {
      const int64_t size = sizes[t];
      const int64_t from = aligned(std::max<int64_t>(begin - starts[t], 0), size);
      const int64_t to = aligned(std::min(end - starts[t], size), size);
      if (from < to) body(t, from, to);
    }
  });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
