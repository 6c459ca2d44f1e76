// linear_relu_dropout: out = relu(x weight^T + bias) * keep / (1 - p); the product and its backward
// are linear_relu's, here is the dropout of what it left.
//
// keep[i] is 1 where random[i] >= p * 2^32, i counting the elements of out row by row and random[i]
// as common/random_bits.h has it for tensor 0 and step 0.
#pragma once

#include <cstdint>

#include "common/capability.h"
#include "common/dtypes.h"

namespace fastmodel {

struct LinearReluDropout {
  void* out;  // scaled and zeroed in place
  int64_t size;
  uint64_t seed;
  uint64_t threshold;  // round(p * 2^32)
  float scale;         // 1 / (1 - p); 0 for p = 1
  DType dtype;
  int threads;
};

FASTMODEL_CPU_KERNEL(linear_relu_dropout_cpu, LinearReluDropout)

}  // namespace fastmodel
