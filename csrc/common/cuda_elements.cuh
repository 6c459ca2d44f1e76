// kCount neighbouring elements of any storage type as float32 in registers, 16 bytes at a time.
#pragma once

#include "common/cuda_dtypes.cuh"
#include "common/cuda_memory.cuh"

namespace fastmodel {

template <int kCount, typename T>
__device__ __forceinline__ void load_elements(const T* p, float (&out)[kCount]) {
  static_assert(kCount % Pack<T>::kCount == 0, "whole packs");
#pragma unroll
  for (int at = 0; at < kCount; at += Pack<T>::kCount) {
    const Pack<T> pack = load_pack(p + at);
#pragma unroll
    for (int i = 0; i < Pack<T>::kCount; ++i) out[at + i] = to_float(pack[i]);
  }
}

template <int kCount, typename T>
__device__ __forceinline__ void store_elements(T* p, const float (&values)[kCount]) {
  static_assert(kCount % Pack<T>::kCount == 0, "whole packs");
#pragma unroll
  for (int at = 0; at < kCount; at += Pack<T>::kCount) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::kCount; ++i) from_float(values[at + i], &pack[i]);
    store_pack(p + at, pack);
  }
}

// One element alone, where packs are not aligned and at the end.
template <typename T>
__device__ __forceinline__ void load_elements(const T* p, float (&out)[1]) {
  out[0] = to_float(*p);
}

template <typename T>
__device__ __forceinline__ void store_elements(T* p, const float (&values)[1]) {
  from_float(values[0], p);
}

}  // namespace fastmodel
