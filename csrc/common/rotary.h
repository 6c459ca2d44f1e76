// Arguments of the rotary embeddings: x (batch, heads, length, width) turned by tables (length,
// width), pairs (i, j) of a row's elements as each op has them:
//   out[i] = x[i] * cos[i] - x[j] * sin[i], out[j] = x[j] * cos[j] + x[i] * sin[j]
// and, for the gradient that goes back,
//   out[i] = x[i] * cos[i] + x[j] * sin[j], out[j] = x[j] * cos[j] - x[i] * sin[i]
// Steps are in elements; those of width are 1.
#pragma once

#include <cstdint>

#include "common/dtypes.h"

namespace fastmodel {

struct RotarySteps {
  int64_t batch, head, position;
};

struct RotaryTurn {
  const void* x;
  void* out;
  const float* cos;  // (1 or batch, length, width), contiguous
  const float* sin;  // as cos
  int64_t batch, heads, length, width;
  RotarySteps x_steps, out_steps;
  int64_t table_step;  // from a table to the next of the batch; 0 for one table
  bool is_backward;
  DType dtype;
  int threads;
};

}  // namespace fastmodel
