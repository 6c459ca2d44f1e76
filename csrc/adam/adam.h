// adam: one step of Adam or AdamW over a list of parameters, in place. Per element, at step t
// (d = grad_factor * g; with L2 weight decay d += weight_decay * p; with decoupled decay first
// p *= 1 - lr * weight_decay):
//   m = m + (1 - beta1) * (d - m)
//   v = beta2 * v + (1 - beta2) * d * d
//   s = amsgrad ? (vmax = max(vmax, v)) : v
//   p = p - lr / (1 - beta1^t) * m / (sqrt(s) / sqrt(1 - beta2^t) + eps)
#pragma once

#include "common/capability.h"
#include "common/tensor_table.h"

namespace fastmodel {

struct AdamStep {
  // Columns param, grad, m, v and, with amsgrad, vmax; steps count t - 1 before, t after.
  const TensorTable& tensors;
  double lr, beta1, beta2, eps, weight_decay, grad_factor;
  bool is_decoupled;
  int threads;
};

FASTMODEL_CPU_KERNEL(adam_step_cpu, AdamStep)

}  // namespace fastmodel
