// mse_loss of x and target, both of n elements in the same order in memory:
//   term[i] = (x[i] - target[i])^2
//   loss = term, sum_i term[i], or sum_i term[i] / n
// Backward, with s[i] = 2 grad[i], 2 grad or 2 grad / n:
//   grad_x[i] = s[i] * (x[i] - target[i]), grad_target = -grad_x
#pragma once

#include <cstdint>

#include "common/capability.h"
#include "common/dtypes.h"
#include "common/reduction.h"

namespace fastmodel {

struct MseLossProblem {
  const void* x;       // (size)
  const void* target;  // (size)
  int64_t size;
  Reduction reduction;
  DType dtype;
  int threads;
};

struct MseLossForward {
  MseLossProblem problem;
  void* loss;  // (size) for kNone, else one element
};

struct MseLossBackward {
  MseLossProblem problem;
  const void* grad;   // (size) for kNone, else one element
  void* grad_x;       // (size), or null if not wanted
  void* grad_target;  // (size), or null if not wanted
};

FASTMODEL_CPU_KERNEL(mse_loss_forward_cpu, MseLossForward)
FASTMODEL_CPU_KERNEL(mse_loss_backward_cpu, MseLossBackward)

}  // namespace fastmodel
