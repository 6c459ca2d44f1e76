// Activations of float32 numbers and their derivatives, on a GPU.
//
// Each has value(z), and derivative(saved) from out for Relu, Sigmoid and Tanh, from z for Gelu and
// Silu. Infinity and NaN give what PyTorch's own functions give.
#pragma once

#include <cmath>

#include "common/cuda.cuh"

namespace fastmodel {

__device__ __forceinline__ float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

struct Relu {
  static __device__ __forceinline__ float value(float z) { return z <= 0.0f ? 0.0f : z; }
  static __device__ __forceinline__ float derivative(float out) {
    return out <= 0.0f ? 0.0f : 1.0f;
  }
};

struct Sigmoid {
  static __device__ __forceinline__ float value(float z) { return sigmoid(z); }
  static __device__ __forceinline__ float derivative(float out) { return out * (1.0f - out); }
};

struct Tanh {
  static __device__ __forceinline__ float value(float z) { return tanhf(z); }
  static __device__ __forceinline__ float derivative(float out) { return 1.0f - out * out; }
};

struct Gelu {
  // Phi(z), by the complement, which keeps the lower tail's accuracy.
  static __device__ __forceinline__ float cdf(float z) {
    constexpr float kInverseRootTwo = 0x1.6a09e6p-1f;
    return 0.5f * erfcf(-z * kInverseRootTwo);
  }
  static __device__ __forceinline__ float value(float z) { return z * cdf(z); }
  static __device__ __forceinline__ float derivative(float z) {
    constexpr float kInverseRootTwoPi = 0x1.988454p-2f;
    return cdf(z) + z * (kInverseRootTwoPi * expf(-0.5f * z * z));
  }
};

struct Silu {
  static __device__ __forceinline__ float value(float z) { return z * sigmoid(z); }
  static __device__ __forceinline__ float derivative(float z) {
    // 1 - sigmoid(z) by a subtraction would be off by z ulps once z multiplies it.
    const float e = expf(z < 0.0f ? z : -z);
    const float larger = 1.0f / (1.0f + e), smaller = e * larger;
    const float s = z < 0.0f ? smaller : larger, rest = z < 0.0f ? larger : smaller;
    return s * (1.0f + z * rest);
  }
};

}  // namespace fastmodel
