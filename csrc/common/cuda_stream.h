// Where a CUDA kernel runs: a device and one of its streams, as Python tells.
#pragma once

#include <cstdint>

namespace fastmodel {

struct Stream {
  int device;
  uintptr_t handle;  // a cudaStream_t
};

}  // namespace fastmodel
