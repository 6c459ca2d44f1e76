// sgd: one step of SGD over a list of parameters, in place. Per element (d = grad_factor * g, and
// d += weight_decay * p where that is not 0):
//   without momentum:  p = p - lr * d
//   with it:           b = is_first ? d : momentum * b + (1 - dampening) * d
//                      p = p - lr * (nesterov ? d + momentum * b : b)
#pragma once

#include <vector>

#include "common/capability.h"
#include "common/tensor_table.h"

namespace fastmodel {

struct SgdStep {
  // Columns param, grad and, with momentum, b.
  const TensorTable& tensors;
  const std::vector<bool>& are_first;  // a parameter each: b holds nothing yet
  double lr, momentum, dampening, weight_decay, grad_factor;
  bool is_nesterov;
  int threads;
};

FASTMODEL_CPU_KERNEL(sgd_step_cpu, SgdStep)

}  // namespace fastmodel
