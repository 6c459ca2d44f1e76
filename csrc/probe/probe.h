// probe: what common/cuda*.cuh promises, one kernel a promise, for tests: the emulation and the GPU
// must answer alike.
#pragma once

#include <cstdint>

#include "common/cuda_stream.h"
#include "common/dtypes.h"

namespace fastmodel {

// sums[b] = sum of x[b * 96 .. b * 96 + 95], by blocks of 96 threads.
void probe_block_sum_cuda(const float* x, int64_t blocks, float* sums, Stream stream);

// By one warp, x and out of 32 ints: out[k * 32 + l] is what lane l receives from
// 0: shuffle(x, 5), 1: shuffle_xor(x, 9), 2: shuffle_down(x, 3), 3: shuffle_up(x, 3),
// 4: the count of odd x, 5: the maximum.
void probe_warp_cuda(const int* x, int* out, Stream stream);

// c (16 x 8) = a (16 x 16) b (16 x 8), row-major, bfloat16 or float16, over load_matrices; with
// kFloat32 a is 16 x 8, b 8 x 8 and the product tf32's.
void probe_product_cuda(const void* a, const void* b, float* c, DType dtype, Stream stream);

// By one block: y[i] = x[count - 1 - i] through shared memory by copy_async; count <= 256, and
// zeros where i >= inside.
void probe_reverse_cuda(const float* x, float* y, int count, int inside, Stream stream);

// y = x rounded to dtype and back, 16 bytes at a time; count is a multiple of 8.
void probe_round_cuda(const float* x, float* y, int64_t count, DType dtype, Stream stream);

#if !defined(__CUDACC__)
// What the emulation alone finds: faults planted in kernels.
enum class CudaFault {
  kMissingBarrier,
  kMissingBarrierBehind,
  kDivergentBarrier,
  kDivergentCollectives,
  kPartialWarp,
  kSharedIndex,
  kSharedOverrun,
  kMisaligned,
  kMissingWait,
  kNone
};
// y[i] = x[255 - i] of 256 floats, by one or two blocks in a row, where there is no fault;
// y[i] = x[0] where every thread looks behind itself, kMissingBarrierBehind.
void probe_fault_cuda(CudaFault fault, const float* x, float* y, int blocks, Stream stream);
#endif

}  // namespace fastmodel
