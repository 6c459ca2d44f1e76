// sgd on the GPU: sgd.h's step for one group on one device, in one launch (more where there are
// several hundred tensors).
//
// As in adam_cuda.h, all that changes from step to step can lie on the device; and so the master
// copy and the average.
#pragma once

#include <optional>
#include <vector>

#include "common/cuda_stream.h"
#include "common/tensor_table.h"

namespace fastmodel {

struct SgdCudaStep {
  // Columns param, grad, then with momentum b, the master copy, the average.
  TensorTablePtr tensors;
  bool has_master;
  std::optional<double> ema_decay;
  std::vector<bool> are_first;  // a parameter each, with momentum: b holds nothing yet
  double lr, momentum, dampening, weight_decay;
  bool is_nesterov, is_maximizing;
  // One float each on the device, or null.
  const float *lr_there, *grad_scale, *found_inf, *clip;
};

void sgd_step_cuda(const SgdCudaStep& step, Stream stream);

}  // namespace fastmodel
