// What the optimizers' kernels do alike: the gradient's factors, and the parameters' average.
#pragma once

#include <cstdint>

#include "common/cuda.cuh"

namespace fastmodel {

// What the gradient is multiplied by: to keep it so, and then for the step alone.
struct GradFactors {
  bool is_scaled;
  float unscale, factor;

  // One float each on the device, or null.
  __device__ GradFactors(const float* grad_scale, const float* clip, bool is_maximizing)
      : is_scaled(grad_scale != nullptr),
        unscale(grad_scale == nullptr ? 1.0f : 1.0f / *grad_scale),
        factor((is_maximizing ? -1.0f : 1.0f) * (clip == nullptr ? 1.0f : *clip)) {}
};

// a = a + new_in_average * (p - a)
template <typename S, int kCount>
__device__ __forceinline__ void move_average(S* at, const float (&param)[kCount],
                                             float new_in_average) {
  float average[kCount];
  load_elements(at, average);
#pragma unroll
  for (int k = 0; k < kCount; ++k) average[k] += new_in_average * (param[k] - average[k]);
  store_elements(at, average);
}

}  // namespace fastmodel
