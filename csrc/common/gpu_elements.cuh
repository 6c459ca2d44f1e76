// Arrays of float32, bfloat16 or float16 as a GPU's threads go over them: 16 bytes at a time where
// every array allows it, single elements before, behind and elsewhere; arithmetic in float32.
#pragma once

#include <cstdint>

#include "common/cuda.cuh"

namespace fastmodel {

template <int N>
struct Floats {
  static constexpr int kCount = N;
  float values[N];

  __device__ __forceinline__ float& operator[](int i) { return values[i]; }
  __device__ __forceinline__ float operator[](int i) const { return values[i]; }
};

// How many elements go together: one, or a pack of them.
template <int N>
struct Width {
  static constexpr int kCount = N;
};

// N elements from p on; p is aligned to 16 bytes where N is more than 1.
template <int N, typename T>
__device__ __forceinline__ Floats<N> load_floats(Width<N>, const T* p) {
  Floats<N> out;
  if constexpr (N == 1) {
    out[0] = to_float(*p);
  } else {
    const Pack<T> pack = load_pack(p);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = to_float(pack[i]);
  }
  return out;
}

template <int N, typename T>
__device__ __forceinline__ void store_floats(T* p, const Floats<N>& values) {
  if constexpr (N == 1) {
    from_float(values[0], p);
  } else {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) from_float(values[i], &pack[i]);
    store_pack(p, pack);
  }
}

// Elements of p before its first multiple of 16 bytes, at most n.
template <typename T>
__device__ __forceinline__ int64_t head_of(int64_t n, const T* p) {
  constexpr int64_t kCount = Pack<T>::kCount;
  const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(p) / sizeof(T)) % kCount;
  const int64_t head = (kCount - past) % kCount;
  return head < n ? head : n;
}

// The same for arrays of one length: all n where they are not aligned alike. A null array has no
// say.
template <typename T, typename... Others>
__device__ __forceinline__ int64_t head_of(int64_t n, const T* p, const Others*... others) {
  const auto is_alike = [p](const void* other) {
    return other == nullptr ||
           (reinterpret_cast<uintptr_t>(p) ^ reinterpret_cast<uintptr_t>(other)) % 16 == 0;
  };
  return (is_alike(others) && ...) ? head_of(n, p) : n;
}

// Calls body(width, i) for what this one of `threads` takes of [0, n): packs from `head` on.
template <typename T, typename Body>
__device__ __forceinline__ void for_each_pack(int64_t n, int64_t head, int64_t thread,
                                              int64_t threads, const Body& body) {
  constexpr int64_t kCount = Pack<T>::kCount;
  for (int64_t i = thread; i < head; i += threads) body(Width<1>(), i);
  const int64_t packs = (n - head) / kCount;
  for (int64_t p = thread; p < packs; p += threads) body(Width<kCount>(), head + p * kCount);
  for (int64_t i = head + packs * kCount + thread; i < n; i += threads) body(Width<1>(), i);
}

// This thread's number among all of a one-dimensional grid, and how many they are.
__device__ __forceinline__ int64_t grid_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t grid_threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// Blocks for n elements of which a thread takes a pack at a time: no more than the device holds a
// few times over, for threads go on to the next pack.
template <typename T>
inline unsigned elementwise_blocks(const char* op, int64_t n, int threads, Stream stream) {
  constexpr int64_t kBlocksPerMultiprocessor = 16;
  const int64_t wanted = ceil_div(n, int64_t{threads} * Pack<T>::kCount);
  const int64_t most = kBlocksPerMultiprocessor * multiprocessors(op, stream);
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

// Calls body(T()) for the element type of a code.
template <typename Body>
void with_element_type(DType dtype, const Body& body) {
  if (dtype == DType::kFloat32) {
    body(float());
  } else if (dtype == DType::kBFloat16) {
    body(BFloat16());
  } else {
    body(Half());
  }
}

}  // namespace fastmodel
