// adam on the GPU: every parameter, gradient and moment is read once and, but for the gradient,
// written once.
//
// Bytes a parameter in float32: read p, g, m, v (16), write p, m, v (12): 28; amsgrad 36; an
// average 8 more; scaled gradients, which are unscaled in place, 4 more. bfloat16 or float16 with
// float32 moments: 2 + 2 + 8 read, 2 + 8 written: 22, and 30 with a float32 master copy (4 read and
// 4 written, p only written). FLOPs: about 14, with one square root and one division: some 0.5 a
// byte, where a GPU has ten times as many to give: bandwidth is the floor.
//
// A thread holds 16 bytes of the parameters and the same elements of the others. Blocks of 256
// threads with 56 registers (float32) to 80 (16-bit parameters) leave 4 or 3 of them on a
// multiprocessor: 64 KiB and more in flight there, above the 20 KB or so that bandwidth times
// latency asks for.
#include <type_traits>

#include "adam/adam_cuda.h"
#include "adam/adam_update.h"
#include "common/cuda.cuh"
#include "common/cuda_optimizer.cuh"
#include "common/cuda_tensor_chunks.h"

namespace fastmodel {
namespace {

constexpr int kThreads = 256;
constexpr int kManyTensors = 384;

enum Column { kParam, kGrad, kFirst, kSecond, kMaximum, kMaster, kAverage, kColumns };

// Of one tensor's step: on the device before it, or the host's after it.
union Count {
  float* there;
  float here;
};

struct AdamOptions {
  double lr, beta1, beta2, eps, weight_decay;
  float new_in_average;
  bool is_decoupled, is_maximizing, are_counts_there;
  const float *lr_there, *grad_scale, *found_inf, *clip;
};

template <int kCapacity>
struct AdamArgs {
  ChunkTable<kColumns, kCapacity> chunks;
  Count counts[kCapacity];
  AdamOptions options;
};

__device__ AdamScalars scalars_of(const AdamOptions& o, Count count) {
  const double lr = o.lr_there == nullptr ? o.lr : static_cast<double>(*o.lr_there);
  const float step = o.are_counts_there ? *count.there + 1.0f : count.here;
  return adam_scalars(lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.is_decoupled,
                      adam_correction(lr, o.beta1, o.beta2, step));
}

// NaN in either wins, as in torch.maximum.
__device__ __forceinline__ float maximum(float a, float b) { return a < b || b != b ? b : a; }

// One tensor's arrays; null where it has none.
template <typename P, typename S>
struct Arrays {
  P *param, *grad;
  S *first, *second, *maximum, *average;
  float* master;

  template <typename Table>
  __device__ Arrays(const Table& table, int t)
      : param(static_cast<P*>(table.columns[kParam][t])),
        grad(static_cast<P*>(table.columns[kGrad][t])),
        first(static_cast<S*>(table.columns[kFirst][t])),
        second(static_cast<S*>(table.columns[kSecond][t])),
        maximum(static_cast<S*>(table.columns[kMaximum][t])),
        average(static_cast<S*>(table.columns[kAverage][t])),
        master(static_cast<float*>(table.columns[kMaster][t])) {}

  __device__ bool are_pack_aligned() const {
    return is_pack_aligned(param) && is_pack_aligned(grad) && is_pack_aligned(first) &&
           is_pack_aligned(second) && is_pack_aligned(maximum) && is_pack_aligned(average) &&
           is_pack_aligned(master);
  }
};

template <int kCount, typename P, typename S>
__device__ __forceinline__ void update(const Arrays<P, S>& x, int64_t i, const AdamScalars& c,
                                       const GradFactors& by, float new_in_average) {
  float param[kCount], grad[kCount], first[kCount], second[kCount], scale[kCount];
  if (x.master != nullptr) {
    load_elements(x.master + i, param);
  } else {
    load_elements(x.param + i, param);
  }
  load_elements(x.grad + i, grad);
  load_elements(x.first + i, first);
  load_elements(x.second + i, second);
  if (x.maximum != nullptr) load_elements(x.maximum + i, scale);
  if (by.is_scaled) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) grad[k] *= by.unscale;
    store_elements(x.grad + i, grad);
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    adam_moments(c, param[k], grad[k] * by.factor, first[k], second[k]);
    scale[k] = x.maximum == nullptr ? second[k] : maximum(scale[k], second[k]);
    param[k] = adam_param(c, param[k], first[k], sqrtf(scale[k]));
  }
  store_elements(x.param + i, param);
  store_elements(x.first + i, first);
  store_elements(x.second + i, second);
  if (x.maximum != nullptr) store_elements(x.maximum + i, scale);
  if (x.master != nullptr) store_elements(x.master + i, param);
  if (x.average != nullptr) move_average(x.average + i, param, new_in_average);
}

// P is the parameters' and gradients' type, S the moments'.
template <typename P, typename S, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    adam_step_kernel(const __grid_constant__ AdamArgs<kCapacity> a) {
  const AdamOptions& o = a.options;
  if (o.found_inf != nullptr && *o.found_inf != 0.0f) return;
  const Chunk chunk = chunk_of(a.chunks, blockIdx.x);
  FASTMODEL_SHARED(AdamScalars, scalars, 1);
  if (threadIdx.x == 0) scalars[0] = scalars_of(o, a.counts[chunk.tensor]);
  sync_block();
  const AdamScalars c = scalars[0];
  const GradFactors by(o.grad_scale, o.clip, o.is_maximizing);
  const Arrays<P, S> x(a.chunks, chunk.tensor);
  constexpr int kCount = Pack<P>::kCount;
  const int64_t packed = x.are_pack_aligned()
                             ? chunk.begin + (chunk.end - chunk.begin) / kCount * kCount
                             : chunk.begin;
  for (int64_t i = chunk.begin + threadIdx.x * kCount; i < packed; i += kThreads * kCount) {
    update<kCount>(x, i, c, by, o.new_in_average);
  }
  for (int64_t i = packed + threadIdx.x; i < chunk.end; i += kThreads) {
    update<1>(x, i, c, by, o.new_in_average);
  }
}

struct CountArgs {
  float* counts[kManyTensors];
  int tensors;
  const float* found_inf;
};

__global__ void __launch_bounds__(kThreads) adam_count_kernel(const __grid_constant__ CountArgs a) {
  if (a.found_inf != nullptr && *a.found_inf != 0.0f) return;
  for (int t = threadIdx.x; t < a.tensors; t += kThreads) *a.counts[t] += 1.0f;
}

// Where each of the kernel's columns stands in the table; -1 for none.
struct Places {
  int of[kColumns];
  explicit Places(const AdamCudaStep& step) : of{0, 1, 2, 3, -1, -1, -1} {
    int next = 4;
    if (step.is_amsgrad) of[kMaximum] = next++;
    if (step.has_master) of[kMaster] = next++;
    if (step.ema_decay) of[kAverage] = next++;
  }
};

template <typename P, typename S, int kCapacity>
void launch_range(const AdamCudaStep& step, const AdamOptions& options, LaunchRange range,
                  int64_t chunk_elements, Stream stream) {
  const TensorTable& table = *step.tensors;
  const Places places(step);
  AdamArgs<kCapacity> args;
  args.options = options;
  fill_chunks(&args.chunks, table.sizes, range, chunk_elements);
  for (int t = 0; t < args.chunks.tensors; ++t) {
    for (int c = 0; c < kColumns; ++c) {
      args.chunks.columns[c][t] =
          places.of[c] < 0 ? nullptr : table.columns[places.of[c]][range.begin + t];
    }
    float* const count = table.steps[range.begin + t];
    if (step.are_counts_on_device) {
      args.counts[t].there = count;
    } else {
      args.counts[t].here = *count += 1.0f;
    }
  }
  launch("adam", adam_step_kernel<P, S, kCapacity>, args.chunks.first_chunks[args.chunks.tensors],
         kThreads, 0, stream, args);
  if (!step.are_counts_on_device) return;
  CountArgs counts;
  counts.tensors = args.chunks.tensors;
  counts.found_inf = options.found_inf;
  std::copy_n(table.steps.begin() + range.begin, counts.tensors, counts.counts);
  launch("adam", adam_count_kernel, 1, kThreads, 0, stream, counts);
}

template <typename P, typename S>
void step_all(const AdamCudaStep& step, Stream stream) {
  const TensorTable& table = *step.tensors;
  const AdamOptions options = {
      step.lr,           step.beta1,         step.beta2,
      step.eps,          step.weight_decay,  static_cast<float>(1.0 - step.ema_decay.value_or(1.0)),
      step.is_decoupled, step.is_maximizing, step.are_counts_on_device,
      step.lr_there,     step.grad_scale,    step.found_inf,
      step.clip};
  const int64_t chunk_elements =
      chunk_elements_for(total_of(table.sizes), multiprocessors("adam", stream));
  const bool must_part = have_overlap(table.columns[0], table.sizes, sizeof(P));
  for_each_launch<kManyTensors>(
      table.sizes, chunk_elements, must_part, [&](LaunchRange range, auto capacity) {
        launch_range<P, S, capacity>(step, options, range, chunk_elements, stream);
      });
}

template <typename P>
void step_params(const AdamCudaStep& step, Stream stream) {
  const bool is_own = step.tensors->state_dtype == step.tensors->dtype;
  is_own ? step_all<P, P>(step, stream) : step_all<P, float>(step, stream);
}

}  // namespace

void adam_step_cuda(const AdamCudaStep& step, Stream stream) {
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
