// The last step of a sum that many blocks shared: total[i] = sum over s of partial[s][i], in a
// fixed order, stored as a weight's gradient and a bias's behind it.
//
// Bytes: 4 * splits * count read; a few microseconds' worth, so one launch serves both gradients.
#pragma once

#include "common/conv_shape.h"
#include "common/values.cuh"

namespace fastmodel {

constexpr int kSumThreads = 256;

// The first weight_count totals are (K, C, R, S) and go to `weight` by its strides, the others to
// `bias`; a null one is not wanted.
template <typename T>
struct GradientSums {
  T* weight;
  Strides weight_stride;
  int64_t c, r, s, weight_count;
  T* bias;

  __device__ __forceinline__ void store(int64_t i, float total) const {
    if (i >= weight_count) {
      if (bias != nullptr) bias[i - weight_count] = rounded<T>(total);
      return;
    }
    if (weight == nullptr) return;
    const int64_t at_s = i % s, at_r = i / s % r, at_c = i / (s * r) % c, at_k = i / (s * r * c);
    weight[at_k * weight_stride.d0 + at_c * weight_stride.d1 + at_r * weight_stride.d2 +
           at_s * weight_stride.d3] = rounded<T>(total);
  }
};

template <typename T>
__global__ void __launch_bounds__(kSumThreads)
    partial_sums_kernel(const float* partial, int64_t splits, int64_t count, GradientSums<T> sums) {
  FASTMODEL_SHARED(float, tile, kSumThreads);
  const int lane = threadIdx.x % kWarp, down = threadIdx.x / kWarp;
  const int64_t i = int64_t{blockIdx.x} * kWarp + lane;
  float sum = 0.0f;
  if (i < count) {
    for (int64_t s = down; s < splits; s += kSumThreads / kWarp) sum += partial[s * count + i];
  }
  tile[threadIdx.x] = sum;
  sync_block();
  if (down != 0 || i >= count) return;
  float total = 0.0f;
  for (int d = 0; d < kSumThreads / kWarp; ++d) total += tile[d * kWarp + lane];
  sums.store(i, total);
}

// partial is (splits, count).
template <typename T>
void store_partial_sums(const char* op, const float* partial, int64_t splits, int64_t count,
                        const GradientSums<T>& sums, Stream stream) {
  launch(op, partial_sums_kernel<T>, static_cast<unsigned>(ceil_div(count, kWarp)), kSumThreads, 0,
         stream, partial, splits, count, sums);
}

}  // namespace fastmodel
