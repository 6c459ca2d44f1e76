// Element types on the GPU. Arithmetic is float32; bfloat16 and float16 are storage formats,
// rounded to nearest even.
#pragma once

#include "common/cuda_platform.cuh"
#include "common/dtypes.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fastmodel {

__device__ __forceinline__ uint32_t bits_of(float value) {
#if defined(__CUDACC__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

__device__ __forceinline__ float float_of(uint32_t bits) {
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ float to_float(BFloat16 value) {
  return float_of(static_cast<uint32_t>(value.bits) << 16);
}

#if defined(__CUDACC__)

__device__ __forceinline__ float to_float(Half value) {
  return __half2float(__ushort_as_half(value.bits));
}

__device__ __forceinline__ void from_float(float value, BFloat16* out) {
  out->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

__device__ __forceinline__ void from_float(float value, Half* out) {
  out->bits = __half_as_ushort(__float2half_rn(value));
}

#else

inline float to_float(Half value) { return emulation::half_to_float(value.bits); }

inline void from_float(float value, BFloat16* out) {
  uint32_t wide = bits_of(value);
  wide += 0x7FFF + ((wide >> 16) & 1);
  out->bits = value != value ? 0x7FFF : static_cast<uint16_t>(wide >> 16);
}

inline void from_float(float value, Half* out) { out->bits = emulation::float_to_half(value); }

#endif

__device__ __forceinline__ void from_float(float value, float* out) { *out = value; }

template <typename T>
__device__ __forceinline__ T rounded(float value) {
  T out;
  from_float(value, &out);
  return out;
}

// Two neighbours in one register, the first in the low half: what the matrix products take.
__device__ __forceinline__ uint32_t pair_of(BFloat16 low, BFloat16 high) {
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}
__device__ __forceinline__ uint32_t pair_of(Half low, Half high) {
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}

}  // namespace fastmodel
