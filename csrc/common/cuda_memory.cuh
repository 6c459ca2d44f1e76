// Global memory, 16 bytes at a time. Addresses must be multiples of 16; emulated, that is checked.
#pragma once

#include <cstdint>

#include "common/cuda_platform.cuh"

namespace fastmodel {

// Elements of 16 bytes.
template <typename T>
struct alignas(16) Pack {
  static_assert(16 % sizeof(T) == 0, "16 bytes hold a whole number of elements");
  static constexpr int kCount = 16 / sizeof(T);
  T values[kCount];

  __device__ __forceinline__ T& operator[](int i) { return values[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return values[i]; }
};

__host__ __device__ __forceinline__ bool is_pack_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

#if defined(__CUDACC__)

template <typename T>
__device__ __forceinline__ Pack<T> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}

template <typename T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(p) = pack;
}

// For what is read or written once: it does not push other data out of the caches.
template <typename T>
__device__ __forceinline__ Pack<T> load_pack_streaming(const T* p) {
  const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(p));
  return *reinterpret_cast<const Pack<T>*>(&bits);
}

template <typename T>
__device__ __forceinline__ void store_pack_streaming(T* p, const Pack<T>& pack) {
  __stcs(reinterpret_cast<uint4*>(p), *reinterpret_cast<const uint4*>(&pack));
}

#else

template <typename T>
Pack<T> load_pack(const T* p) {
  emulation::check_alignment(p, 16);
  Pack<T> pack;
  std::memcpy(&pack, p, sizeof(pack));
  return pack;
}

template <typename T>
void store_pack(T* p, const Pack<T>& pack) {
  emulation::check_alignment(p, 16);
  std::memcpy(p, &pack, sizeof(pack));
}

template <typename T>
Pack<T> load_pack_streaming(const T* p) {
  return load_pack(p);
}

template <typename T>
void store_pack_streaming(T* p, const Pack<T>& pack) {
  store_pack(p, pack);
}

#endif

}  // namespace fastmodel
