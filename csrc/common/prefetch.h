// Software prefetch for sweeps over several large arrays. The hardware's own prefetchers stop at
// every page of 4 KiB and find each array anew; asked for in time, the next page is on its way.
//
// Distance: 1024, 2048 and 4096 bytes were tried with Adam on 25 tensors of 1M elements, two cores
// of an AMD EPYC (Zen 5); the first two gain 12 % with bfloat16 moments, the last 10 %.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

constexpr int64_t kPrefetchElements = 512;

// Asks for what a sweep at element i of arrays of `size` elements touches soon; arrays of const are
// only read.
template <typename... T>
FASTMODEL_INLINE void prefetch(int64_t i, int64_t size, T*... arrays) {
  if (i + kPrefetchElements >= size) return;
  (__builtin_prefetch(arrays + i + kPrefetchElements, std::is_const_v<T> ? 0 : 1), ...);
}

// Asks for what a walk that is at p touches kPrefetchElements later, past the end too: asking for
// what is no memory is no error.
template <typename T>
FASTMODEL_INLINE void prefetch_ahead(T* p) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(p) + kPrefetchElements * sizeof(T);
  __builtin_prefetch(reinterpret_cast<const void*>(address), std::is_const_v<T> ? 0 : 1);
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
