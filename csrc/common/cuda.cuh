// What a *_cuda.cu is written with. The same source compiles in two ways:
//   by nvcc, for the extension fastmodel._cuda;
//   by the C++ compiler, for fastmodel._cuda_emulated, where every block runs on the CPU, its
//   threads as fibers (common/cuda_emulation.h), so that kernels are tested without a GPU.
// So there are no `<<<>>>`, no `__shared__`, no intrinsics and no PTX but in common/cuda*.cuh.
// Kernels write `__global__`, `__device__`, `__launch_bounds__`, `threadIdx`, `blockIdx`,
// `blockDim` and `gridDim` as ever. A block never waits for another block: emulated, they run one
// by one.
#pragma once

#include "common/cuda_async_copy.cuh"
#include "common/cuda_atomics.cuh"
#include "common/cuda_dtypes.cuh"
#include "common/cuda_elements.cuh"
#include "common/cuda_launch.cuh"
#include "common/cuda_memory.cuh"
#include "common/cuda_mma.cuh"
#include "common/cuda_shared.cuh"
#include "common/cuda_warp.cuh"
