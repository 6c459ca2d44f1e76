// grad_norm: the sum of the squares of all gradients of an optimizer, from which it clips them by
// their global norm.
#pragma once

#include <vector>

#include "common/capability.h"
#include "common/tensor_table.h"

namespace fastmodel {

struct GradSquareSum {
  const std::vector<TensorTablePtr>& tables;
  int threads;
  double& sum;
};

FASTMODEL_CPU_KERNEL(grad_square_sum_cpu, GradSquareSum)

}  // namespace fastmodel
