// sgd: one step of SGD over parameter groups, in place. Per element (d = grad_factor * g, and
// d += weight_decay * p where that is not 0):
//   without momentum:  p = p - lr * d
//   with it:           b = is_first ? d : momentum * b + (1 - dampening) * d
//                      p = p - lr * (nesterov ? d + momentum * b : b)
// Where gradients are scaled, g = g * grad_unscale comes first and is kept.
#pragma once

#include <vector>

#include "common/capability.h"
#include "common/tensor_table.h"

namespace fastmodel {

struct SgdGroup {
  // Columns param, grad and, with momentum, b.
  TensorTablePtr tensors;
  std::vector<bool> are_first;  // a parameter each, with momentum: b holds nothing yet
  double lr, momentum, dampening, weight_decay;
  bool is_nesterov;
  double grad_unscale;  // 1 leaves the gradients unwritten
  double grad_factor;
};

struct SgdStep {
  const std::vector<SgdGroup>& groups;
  int threads;
};

FASTMODEL_CPU_KERNEL(sgd_step_cpu, SgdStep)

}  // namespace fastmodel
