// sgd on the GPU: every parameter and momentum buffer is read and written once, every gradient read
// once.
//
// Bytes a parameter in float32: read p, g and write p: 12; with momentum read and write b too: 20;
// scaled gradients, which are unscaled in place, 4 more; bfloat16 and float16 half of that. FLOPs:
// 2 to 8: bandwidth is the floor. A thread has 16 bytes of each array in flight, as in
// adam_cuda.cu.
#include <type_traits>

#include "common/cuda.cuh"
#include "common/cuda_tensor_chunks.h"
#include "sgd/sgd_cuda.h"
#include "sgd/sgd_update.h"

namespace fastmodel {
namespace {

constexpr int kThreads = 256;
constexpr int kManyTensors = 768;

enum Column { kParam, kGrad, kBuffer, kColumns };

struct SgdOptions {
  double lr, momentum, dampening, weight_decay;
  bool is_nesterov, is_maximizing;
  const float *lr_there, *grad_scale, *found_inf, *clip;
};

template <int kCapacity>
struct SgdArgs {
  ChunkTable<kColumns, kCapacity> chunks;
  bool are_first[kCapacity];
  SgdOptions options;
};

// What the gradient is multiplied by: to keep it so, and then for the step alone.
struct GradFactors {
  bool is_scaled;
  float unscale, factor;
};

// `buffer` is null without momentum.
template <int kCount, typename T>
__device__ __forceinline__ void update(T* param_at, T* grad_at, T* buffer_at, bool is_first,
                                       const SgdScalars& c, const GradFactors& by) {
  float param[kCount], direction[kCount], buffer[kCount];
  load_elements(param_at, param);
  load_elements(grad_at, direction);
  if (buffer_at != nullptr && !is_first) load_elements(buffer_at, buffer);
  if (by.is_scaled) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) direction[k] *= by.unscale;
    store_elements(grad_at, direction);
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    direction[k] = sgd_direction(c, param[k], direction[k] * by.factor);
    if (buffer_at != nullptr) {
      buffer[k] = is_first ? direction[k] : sgd_buffer(c, buffer[k], direction[k]);
      direction[k] = sgd_momentum(c, buffer[k], direction[k]);
    }
    param[k] -= direction[k] * c.lr;
  }
  store_elements(param_at, param);
  if (buffer_at != nullptr) store_elements(buffer_at, buffer);
}

template <typename T, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    sgd_step_kernel(const __grid_constant__ SgdArgs<kCapacity> a) {
  const SgdOptions& o = a.options;
  if (o.found_inf != nullptr && *o.found_inf != 0.0f) return;
  const Chunk chunk = chunk_of(a.chunks, blockIdx.x);
  const double lr = o.lr_there == nullptr ? o.lr : static_cast<double>(*o.lr_there);
  const SgdScalars c = sgd_scalars(lr, o.momentum, o.dampening, o.weight_decay, o.is_nesterov);
  const float clip = o.clip == nullptr ? 1.0f : *o.clip;
  const GradFactors by = {o.grad_scale != nullptr,
                          o.grad_scale == nullptr ? 1.0f : 1.0f / *o.grad_scale,
                          o.is_maximizing ? -clip : clip};
  T* const param = static_cast<T*>(a.chunks.columns[kParam][chunk.tensor]);
  T* const grad = static_cast<T*>(a.chunks.columns[kGrad][chunk.tensor]);
  T* const buffer = static_cast<T*>(a.chunks.columns[kBuffer][chunk.tensor]);
  const bool is_first = a.are_first[chunk.tensor];
  constexpr int kCount = Pack<T>::kCount;
  const bool is_packed = is_pack_aligned(param) && is_pack_aligned(grad) && is_pack_aligned(buffer);
  const int64_t packed =
      is_packed ? chunk.begin + (chunk.end - chunk.begin) / kCount * kCount : chunk.begin;
  const auto at = [](T* array, int64_t i) { return array == nullptr ? nullptr : array + i; };
  for (int64_t i = chunk.begin + threadIdx.x * kCount; i < packed; i += kThreads * kCount) {
    update<kCount>(param + i, grad + i, at(buffer, i), is_first, c, by);
  }
  for (int64_t i = packed + threadIdx.x; i < chunk.end; i += kThreads) {
    update<1>(param + i, grad + i, at(buffer, i), is_first, c, by);
  }
}

template <typename T, int kCapacity>
void launch_range(const SgdCudaStep& step, LaunchRange range, int64_t chunk_elements,
                  Stream stream) {
  const TensorTable& table = *step.tensors;
  const bool has_momentum = step.momentum != 0.0;
  SgdArgs<kCapacity> args;
  args.options = {step.lr,          step.momentum,      step.dampening, step.weight_decay,
                  step.is_nesterov, step.is_maximizing, step.lr_there,  step.grad_scale,
                  step.found_inf,   step.clip};
  fill_chunks(&args.chunks, table.sizes, range, chunk_elements);
  for (int t = 0; t < args.chunks.tensors; ++t) {
    const size_t row = range.begin + t;
    args.chunks.columns[kParam][t] = table.columns[0][row];
    args.chunks.columns[kGrad][t] = table.columns[1][row];
    args.chunks.columns[kBuffer][t] = has_momentum ? table.columns[2][row] : nullptr;
    args.are_first[t] = has_momentum && step.are_first[row];
  }
  launch("sgd", sgd_step_kernel<T, kCapacity>, args.chunks.first_chunks[args.chunks.tensors],
         kThreads, 0, stream, args);
}

template <typename T>
void step_all(const SgdCudaStep& step, Stream stream) {
  const TensorTable& table = *step.tensors;
  const int64_t chunk_elements =
      chunk_elements_for(total_of(table.sizes), multiprocessors("sgd", stream));
  const bool must_part = have_overlap(table.columns[0], table.sizes, sizeof(T));
  for_each_launch<kManyTensors>(table.sizes, chunk_elements, must_part,
                                [&](LaunchRange range, auto capacity) {
                                  launch_range<T, capacity>(step, range, chunk_elements, stream);
                                });
}

}  // namespace

void sgd_step_cuda(const SgdCudaStep& step, Stream stream) {
  switch (step.tensors->dtype) {
    case DType::kFloat32:
      return step_all<float>(step, stream);
    case DType::kBFloat16:
      return step_all<BFloat16>(step, stream);
    case DType::kFloat16:
      return step_all<Half>(step, stream);
  }
}

}  // namespace fastmodel
