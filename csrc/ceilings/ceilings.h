// ceilings: what this machine's float32 arithmetic reaches at most; no op. The benches hold every
// kernel against it.
//   out[share] = sum over 12 accumulators of a = a * 0.5 + 1, `iterations` times
#pragma once

#include <cstdint>

#include "common/capability.h"

namespace fastmodel {

struct FmaLoop {
  float* out;      // (threads)
  int64_t* flops;  // what was done, of all threads
  int64_t iterations;
  int threads;
};

FASTMODEL_CPU_KERNEL(fma_loop_cpu, FmaLoop)

}  // namespace fastmodel
