// CUDA itself, or its emulation on the CPU.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "common/cuda_emulation.h"
#endif
