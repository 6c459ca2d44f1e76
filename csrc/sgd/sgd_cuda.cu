// sgd on the GPU: every parameter and momentum buffer is read and written once, every gradient read
// once.
//
// Bytes a parameter in float32: read p, g and write p: 12; with momentum read and write b too: 20;
// an average 8 more; scaled gradients, which are unscaled in place, 4 more. bfloat16 and float16
// half of that; with a float32 master copy (4 read and 4 written, p only written) 12, and 20 with
// its float32 b. FLOPs: 2 to 11: bandwidth is the floor. A thread has 16 bytes of the parameters
// in flight and the same elements of the others, as in adam_cuda.cu.
#include <type_traits>

#include "common/cuda.cuh"
#include "common/cuda_optimizer.cuh"
#include "common/cuda_tensor_chunks.h"
#include "sgd/sgd_cuda.h"
#include "sgd/sgd_update.h"

namespace fastmodel {
namespace {

constexpr int kThreads = 256;
constexpr int kManyTensors = 600;

enum Column { kParam, kGrad, kBuffer, kMaster, kAverage, kColumns };

struct SgdOptions {
  double lr, momentum, dampening, weight_decay;
  float new_in_average;
  bool is_nesterov, is_maximizing;
  const float *lr_there, *grad_scale, *found_inf, *clip;
};

template <int kCapacity>
struct SgdArgs {
  ChunkTable<kColumns, kCapacity> chunks;
  bool are_first[kCapacity];
  SgdOptions options;
};

// One tensor's arrays; null where it has none.
template <typename P, typename S>
struct Arrays {
  P *param, *grad;
  S *buffer, *average;
  float* master;

  template <typename Table>
  __device__ Arrays(const Table& table, int t)
      : param(static_cast<P*>(table.columns[kParam][t])),
        grad(static_cast<P*>(table.columns[kGrad][t])),
        buffer(static_cast<S*>(table.columns[kBuffer][t])),
        average(static_cast<S*>(table.columns[kAverage][t])),
        master(static_cast<float*>(table.columns[kMaster][t])) {}

  __device__ bool are_pack_aligned() const {
    return is_pack_aligned(param) && is_pack_aligned(grad) && is_pack_aligned(buffer) &&
           is_pack_aligned(average) && is_pack_aligned(master);
  }
};

template <int kCount, typename P, typename S>
__device__ __forceinline__ void update(const Arrays<P, S>& x, int64_t i, bool is_first,
                                       const SgdScalars& c, const GradFactors& by,
                                       float new_in_average) {
  float param[kCount], direction[kCount], buffer[kCount];
  if (x.master != nullptr) {
    load_elements(x.master + i, param);
  } else {
    load_elements(x.param + i, param);
  }
  load_elements(x.grad + i, direction);
  if (x.buffer != nullptr && !is_first) load_elements(x.buffer + i, buffer);
  if (by.is_scaled) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) direction[k] *= by.unscale;
    store_elements(x.grad + i, direction);
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    direction[k] = sgd_direction(c, param[k], direction[k] * by.factor);
    if (x.buffer != nullptr) {
      buffer[k] = is_first ? direction[k] : sgd_buffer(c, buffer[k], direction[k]);
      direction[k] = sgd_momentum(c, buffer[k], direction[k]);
    }
    param[k] -= direction[k] * c.lr;
  }
  store_elements(x.param + i, param);
  if (x.buffer != nullptr) store_elements(x.buffer + i, buffer);
  if (x.master != nullptr) store_elements(x.master + i, param);
  if (x.average != nullptr) move_average(x.average + i, param, new_in_average);
}

// P is the parameters' and gradients' type, S the buffers' and averages'.
template <typename P, typename S, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    sgd_step_kernel(const __grid_constant__ SgdArgs<kCapacity> a) {
  const SgdOptions& o = a.options;
  if (o.found_inf != nullptr && *o.found_inf != 0.0f) return;
  const Chunk chunk = chunk_of(a.chunks, blockIdx.x);
  const double lr = o.lr_there == nullptr ? o.lr : static_cast<double>(*o.lr_there);
  const SgdScalars c = sgd_scalars(lr, o.momentum, o.dampening, o.weight_decay, o.is_nesterov);
  const GradFactors by(o.grad_scale, o.clip, o.is_maximizing);
  const Arrays<P, S> x(a.chunks, chunk.tensor);
  const bool is_first = a.are_first[chunk.tensor];
  constexpr int kCount = Pack<P>::kCount;
  const int64_t packed = x.are_pack_aligned()
                             ? chunk.begin + (chunk.end - chunk.begin) / kCount * kCount
                             : chunk.begin;
  for (int64_t i = chunk.begin + threadIdx.x * kCount; i < packed; i += kThreads * kCount) {
    update<kCount>(x, i, is_first, c, by, o.new_in_average);
  }
  for (int64_t i = packed + threadIdx.x; i < chunk.end; i += kThreads) {
    update<1>(x, i, is_first, c, by, o.new_in_average);
  }
}

// Where each of the kernel's columns stands in the table; -1 for none.
struct Places {
  int of[kColumns];
  explicit Places(const SgdCudaStep& step) : of{0, 1, -1, -1, -1} {
    int next = 2;
    if (step.momentum != 0.0) of[kBuffer] = next++;
    if (step.has_master) of[kMaster] = next++;
    if (step.ema_decay) of[kAverage] = next++;
  }
};

template <typename P, typename S, int kCapacity>
void launch_range(const SgdCudaStep& step, LaunchRange range, int64_t chunk_elements,
                  Stream stream) {
  const TensorTable& table = *step.tensors;
  const Places places(step);
  SgdArgs<kCapacity> args;
  args.options = {step.lr,
                  step.momentum,
                  step.dampening,
                  step.weight_decay,
                  static_cast<float>(1.0 - step.ema_decay.value_or(1.0)),
                  step.is_nesterov,
                  step.is_maximizing,
                  step.lr_there,
                  step.grad_scale,
                  step.found_inf,
                  step.clip};
  fill_chunks(&args.chunks, table.sizes, range, chunk_elements);
  for (int t = 0; t < args.chunks.tensors; ++t) {
    const size_t row = range.begin + t;
    for (int c = 0; c < kColumns; ++c) {
      args.chunks.columns[c][t] = places.of[c] < 0 ? nullptr : table.columns[places.of[c]][row];
    }
    args.are_first[t] = places.of[kBuffer] >= 0 && step.are_first[row];
  }
  launch("sgd", sgd_step_kernel<P, S, kCapacity>, args.chunks.first_chunks[args.chunks.tensors],
         kThreads, 0, stream, args);
}

template <typename P, typename S>
void step_all(const SgdCudaStep& step, Stream stream) {
  const TensorTable& table = *step.tensors;
  const int64_t chunk_elements =
      chunk_elements_for(total_of(table.sizes), multiprocessors("sgd", stream));
  const bool must_part = have_overlap(table.columns[0], table.sizes, sizeof(P));
  for_each_launch<kManyTensors>(table.sizes, chunk_elements, must_part,
                                [&](LaunchRange range, auto capacity) {
                                  launch_range<P, S, capacity>(step, range, chunk_elements, stream);
                                });
}

template <typename P>
void step_params(const SgdCudaStep& step, Stream stream) {
  const bool is_own = step.tensors->state_dtype == step.tensors->dtype;
  is_own ? step_all<P, P>(step, stream) : step_all<P, float>(step, stream);
}

}  // namespace

void sgd_step_cuda(const SgdCudaStep& step, Stream stream) {
  switch (step.tensors->dtype) {
    case DType::kFloat32:
      return step_all<float, float>(step, stream);
    case DType::kBFloat16:
      return step_params<BFloat16>(step, stream);
    case DType::kFloat16:
      return step_params<Half>(step, stream);
  }
}

}  // namespace fastmodel
