// Fresh memory in large pages. A result beyond the allocator's own cache is mapped anew at every
// call, and the first touch of each 4 KiB page costs more than writing it; Linux gives 2 MiB pages
// to those who ask.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastmodel {

// Advice for memory that is about to be written in whole; never an error, and no change of content.
inline void advise_huge_pages(void* memory, size_t size_bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  // Below this, allocators keep and reuse what they have mapped.
  if (memory == nullptr || size_bytes < 16 * kPage) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + size_bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)size_bytes;
#endif
}

}  // namespace fastmodel
