// Shared memory and the block's barrier.
//
// FASTMODEL_SHARED(float, tile, 32 * 33); declares an array of the block's; it holds anything at
// first. Emulated, it is checked: an index out of bounds, or a write beyond the end, fails the
// launch.
#pragma once

#include "common/cuda_platform.cuh"

#if defined(__CUDACC__)
#define FASTMODEL_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#else
#define FASTMODEL_SHARED(type, name, count)              \
  static ::fastmodel::emulation::SharedSlot name##_slot; \
  const ::fastmodel::emulation::SharedArray<type> name { name##_slot, static_cast<size_t>(count) }
#endif

namespace fastmodel {

#if defined(__CUDACC__)

// The memory that `launch` was asked for, aligned to 128 bytes.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char fastmodel_dynamic_shared[];
  return reinterpret_cast<T*>(fastmodel_dynamic_shared);
}

// Every thread of the block that has not returned comes here before any goes on.
__device__ __forceinline__ void sync_block() { __syncthreads(); }

#else

template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(emulation::dynamic_shared());
}

inline void sync_block() { emulation::sync_block(); }

#endif

}  // namespace fastmodel
