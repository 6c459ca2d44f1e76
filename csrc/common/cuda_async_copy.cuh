// Copies from global to shared memory that a thread starts and waits for later (cp.async).
//
// What a thread copied is there for itself after copy_async_wait, and for the block after a
// sync_block behind that. Emulated, a copy happens as late as it may: in the wait.
#pragma once

#include "common/cuda_platform.cuh"

namespace fastmodel {

#if defined(__CUDACC__)

// Starts a copy of kBytes (4, 8 or 16, both ends aligned so), or of zeros where `is_inside` is
// false. The address must lie in some allocation even then.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global,
                                           bool is_inside = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int read_bytes = is_inside ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
                 "r"(read_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global),
                 "n"(kBytes), "r"(read_bytes)
                 : "memory");
  }
}

// The copies since the last commit are one group.
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for all of this thread's groups but the last kPending.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#else

template <int kBytes>
void copy_async(void* shared, const void* global, bool is_inside = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  emulation::copy_async(shared, global, kBytes, is_inside);
}

inline void copy_async_commit() { emulation::copy_async_commit(); }

template <int kPending>
void copy_async_wait() {
  emulation::copy_async_wait(kPending);
}

#endif

}  // namespace fastmodel
