// grad_norm on the GPU: every gradient is read once.
//
// Bytes a parameter: 4 in float32, 2 in bfloat16 and float16. FLOPs: 2, in float64, where no square
// of a float32 overflows: at 3 TB/s some 1.6 TFLOP/s of it, a small share of what data-center GPUs
// give. Each chunk has a sum of its own, and one block adds them in order: the same bits in every
// run.
#include <type_traits>

#include "common/cuda.cuh"
#include "common/cuda_tensor_chunks.h"
#include "grad_norm/grad_norm_cuda.h"

namespace fastmodel {
namespace {

constexpr int kThreads = 256;
constexpr int kManyTensors = 1024;

template <int kCapacity>
struct SumArgs {
  ChunkTable<1, kCapacity> chunks;
  double* parts;
};

template <int kCount, typename T>
__device__ __forceinline__ double squares_of(const T* p) {
  float values[kCount];
  load_elements(p, values);
  double sum = 0.0;
#pragma unroll
  for (int k = 0; k < kCount; ++k) sum += static_cast<double>(values[k]) * values[k];
  return sum;
}

template <typename T, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    grad_square_sum_kernel(const __grid_constant__ SumArgs<kCapacity> a) {
  const Chunk chunk = chunk_of(a.chunks, blockIdx.x);
  const T* const grad = static_cast<const T*>(a.chunks.columns[0][chunk.tensor]);
  constexpr int kCount = Pack<T>::kCount;
  const int64_t packed = is_pack_aligned(grad)
                             ? chunk.begin + (chunk.end - chunk.begin) / kCount * kCount
                             : chunk.begin;
  double sum = 0.0;
  for (int64_t i = chunk.begin + threadIdx.x * kCount; i < packed; i += kThreads * kCount) {
    sum += squares_of<kCount>(grad + i);
  }
  for (int64_t i = packed + threadIdx.x; i < chunk.end; i += kThreads) {
    sum += squares_of<1>(grad + i);
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) a.parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    grad_add_kernel(const double* parts, int64_t count, double* sum) {
  double own = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) own += parts[i];
  own = block_sum<kThreads>(own);
  if (threadIdx.x == 0) *sum = own;
}

__global__ void grad_clip_kernel(const double* sum, double max_norm, const float* grad_scale,
                                 float* clip) {
  double norm = sqrt(*sum);
  if (grad_scale != nullptr) norm /= *grad_scale;
  const double factor = max_norm / (norm + 1e-6);
  *clip = static_cast<float>(factor > 1.0 ? 1.0 : factor);
}

int64_t chunk_elements_of(const std::vector<TensorTablePtr>& tables, Stream stream) {
  int64_t total = 0;
  for (const TensorTablePtr& table : tables) total += total_of(table->sizes);
  return chunk_elements_for(total, multiprocessors("grad_norm", stream));
}

// Launches over one table's gradients; returns how many partial sums there are.
template <typename T>
int64_t sum_table(const TensorTable& table, int64_t chunk_elements, double* parts, Stream stream) {
  int64_t made = 0;
  for_each_launch<kManyTensors>(
      table.sizes, chunk_elements, false, [&](LaunchRange range, auto capacity) {
        SumArgs<capacity> args;
        fill_chunks(&args.chunks, table.sizes, range, chunk_elements);
        std::copy_n(table.columns[1].begin() + range.begin, args.chunks.tensors,
                    args.chunks.columns[0]);
        args.parts = parts + made;
        const int blocks = args.chunks.first_chunks[args.chunks.tensors];
        launch("grad_norm", grad_square_sum_kernel<T, capacity>, blocks, kThreads, 0, stream, args);
        made += blocks;
      });
  return made;
}

}  // namespace

int64_t grad_square_sum_parts_cuda(const std::vector<TensorTablePtr>& tables, Stream stream) {
  const int64_t chunk_elements = chunk_elements_of(tables, stream);
  int64_t parts = 0;
  for (const TensorTablePtr& table : tables) {
    for (const int64_t size : table->sizes) parts += ceil_div(size, chunk_elements);
  }
  return parts;
}

void grad_square_sum_cuda(const std::vector<TensorTablePtr>& tables, double* parts, double* sum,
                          Stream stream) {
  const int64_t chunk_elements = chunk_elements_of(tables, stream);
  int64_t made = 0;
  for (const TensorTablePtr& table : tables) {
    switch (table->dtype) {
      case DType::kFloat32:
        made += sum_table<float>(*table, chunk_elements, parts + made, stream);
        break;
      case DType::kBFloat16:
        made += sum_table<BFloat16>(*table, chunk_elements, parts + made, stream);
        break;
      case DType::kFloat16:
        made += sum_table<Half>(*table, chunk_elements, parts + made, stream);
        break;
    }
  }
  launch("grad_norm", grad_add_kernel, 1, kThreads, 0, stream, parts, made, sum);
}

void grad_clip_cuda(const double* sum, double max_norm, const float* grad_scale, float* clip,
                    Stream stream) {
  launch("grad_norm", grad_clip_kernel, 1, 1, 0, stream, sum, max_norm, grad_scale, clip);
}

}  // namespace fastmodel
