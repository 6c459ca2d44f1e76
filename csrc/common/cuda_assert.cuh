// A check that a kernel makes of values it was given: where it fails, all work on the device fails
// from there on, and the next call that waits for it raises, as with PyTorch's own kernels.
#pragma once

#include "common/cuda_platform.cuh"

#if defined(__CUDACC__)
// CUDA's own, which its headers declare only where asserts are on.
extern "C" __host__ __device__ void __assert_fail(const char* assertion, const char* file,
                                                  unsigned line, const char* function) noexcept
    __attribute__((__noreturn__));
#endif

namespace fastmodel {

__device__ __forceinline__ void device_check(bool is_right, const char* what) {
#if defined(__CUDACC__)
  if (!is_right) __assert_fail(what, "fastmodel", 0, "device_check");
#else
  if (!is_right) emulation::fail(what);
#endif
}

}  // namespace fastmodel
