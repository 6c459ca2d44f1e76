// Atomic updates, each returning the value before.
#pragma once

#include "common/cuda_platform.cuh"

namespace fastmodel {

#if defined(__CUDACC__)

// T is int, unsigned, unsigned long long, float or double.
template <typename T>
__device__ __forceinline__ T atomic_add(T* p, T value) {
  return atomicAdd(p, value);
}

// T is int, unsigned or unsigned long long.
template <typename T>
__device__ __forceinline__ T atomic_max(T* p, T value) {
  return atomicMax(p, value);
}

// What this thread wrote before is seen by all before what it writes after.
__device__ __forceinline__ void thread_fence() { __threadfence(); }

#else

template <typename T>
T atomic_add(T* p, T value) {
  const T before = *p;
  *p = before + value;
  return before;
}

template <typename T>
T atomic_max(T* p, T value) {
  const T before = *p;
  *p = before < value ? value : before;
  return before;
}

inline void thread_fence() {}

#endif

}  // namespace fastmodel
