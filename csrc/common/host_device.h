// Marks arithmetic that the CPU's and the GPU's kernels share.
#pragma once

#if defined(__CUDACC__)
#define FASTMODEL_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FASTMODEL_HOST_DEVICE inline __attribute__((always_inline))
#endif
