// Arguments of the gated linear units: out[r][c] = activation(gate[r][c]) * up[r][c].
// Backward, with g = grad[r][c]:
//   grad_gate = g * up * derivative(gate), grad_up = g * activation(gate)
// Rows of the inputs lie `step` elements apart, so that halves of a packed projection need no copy;
// results are contiguous.
#pragma once

#include <cstdint>

#include "common/dtypes.h"

namespace fastmodel {

struct GatedForward {
  const void* gate;  // (rows, columns)
  const void* up;    // (rows, columns)
  void* out;         // (rows, columns), contiguous
  int64_t rows, columns, gate_step, up_step;
  DType dtype;
  int threads;
};

struct GatedBackward {
  const void* grad;  // (rows, columns)
  const void* gate;  // (rows, columns)
  const void* up;    // (rows, columns)
  void* grad_gate;   // (rows, columns), contiguous, or null if not wanted
  void* grad_up;     // (rows, columns), contiguous, or null if not wanted
  int64_t rows, columns, grad_step, gate_step, up_step;
  DType dtype;
  int threads;
};

}  // namespace fastmodel
