// adam: one step of Adam or AdamW over parameter groups, in place. Per element, at step t
// (d = grad_factor * g; with L2 weight decay d += weight_decay * p; with decoupled decay first
// p *= 1 - lr * weight_decay):
//   m = m + (1 - beta1) * (d - m)
//   v = beta2 * v + (1 - beta2) * d * d
//   s = amsgrad ? (vmax = max(vmax, v)) : v
//   p = p - lr / (1 - beta1^t) * m / (sqrt(s) / sqrt(1 - beta2^t) + eps)
// Where gradients are scaled, g = g * grad_unscale comes first and is kept.
//
// With a rounding seed m, v and vmax are bfloat16, computed in float32 and rounded at random: up
// with the probability that leaves the mean as it was. The bits of an element depend on the seed,
// t, the parameter's ordinal and the element's place in memory alone.
#pragma once

#include <optional>
#include <vector>

#include "common/capability.h"
#include "common/tensor_table.h"

namespace fastmodel {

struct AdamGroup {
  // Columns param, grad, m, v and, with amsgrad, vmax; steps count t - 1 before, t after.
  TensorTablePtr tensors;
  double lr, beta1, beta2, eps, weight_decay;
  bool is_decoupled;
  double grad_unscale;  // 1 leaves the gradients unwritten
  double grad_factor;
  std::optional<uint64_t> rounding_seed;
};

struct AdamStep {
  const std::vector<AdamGroup>& groups;
  int threads;
};

FASTMODEL_CPU_KERNEL(adam_step_cpu, AdamStep)

}  // namespace fastmodel
