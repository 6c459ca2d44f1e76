// kWidth neighbouring elements as float32: one, or whole Packs of 16 bytes. Through the caches,
// unlike load_elements, for what is read again; in global or shared memory.
#pragma once

#include <type_traits>

#include "common/cuda.cuh"

namespace fastmodel {

template <int kWidth, typename T>
__device__ __forceinline__ void load_values(const T* p, float (&values)[kWidth]) {
  if constexpr (kWidth % Pack<T>::kCount == 0) {
#pragma unroll
    for (int first = 0; first < kWidth; first += Pack<T>::kCount) {
      const Pack<T> pack = load_pack(p + first);
#pragma unroll
      for (int i = 0; i < Pack<T>::kCount; ++i) values[first + i] = to_float(pack[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = to_float(p[i]);
  }
}

template <int kWidth, typename T>
__device__ __forceinline__ void store_values(T* p, const float (&values)[kWidth]) {
  if constexpr (kWidth % Pack<T>::kCount == 0) {
#pragma unroll
    for (int first = 0; first < kWidth; first += Pack<T>::kCount) {
      Pack<T> pack;
#pragma unroll
      for (int i = 0; i < Pack<T>::kCount; ++i) pack[i] = rounded<T>(values[first + i]);
      store_pack(p + first, pack);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) p[i] = rounded<T>(values[i]);
  }
}

// NaN stays, as in PyTorch.
__device__ __forceinline__ float relu(float value) { return value < 0.0f ? 0.0f : value; }

// Calls run(T*(nullptr)) with the element type of a dtype code.
template <typename Run>
void with_element_type(DType dtype, const Run& run) {
  if (dtype == DType::kFloat32) {
    run(static_cast<float*>(nullptr));
  } else if (dtype == DType::kBFloat16) {
    run(static_cast<BFloat16*>(nullptr));
  } else {
    run(static_cast<Half*>(nullptr));
  }
}

}  // namespace fastmodel
