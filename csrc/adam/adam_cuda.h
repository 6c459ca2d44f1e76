// adam on the GPU: adam.h's step for one group on one device, in one launch (more where there are
// several hundred tensors), and a second one that counts steps, where the counts lie on the device.
//
// All that changes from step to step can lie on the device, so that nothing waits for it and a CUDA
// graph replays it: the learning rate, the counts, the gradients' scale, the clip, and found_inf,
// which leaves the whole step out.
//
// Beyond adam.h, per element, after the parameter's new value p:
//   with a master copy (float32) p is kept there, and the parameter is p rounded
//   with an average      a = a + (1 - ema_decay) * (p - a)
#pragma once

#include <optional>

#include "common/cuda_stream.h"
#include "common/tensor_table.h"

namespace fastmodel {

struct AdamCudaStep {
  // Columns param, grad, m, v, then vmax with amsgrad, the master copy, the average.
  TensorTablePtr tensors;
  bool is_amsgrad, has_master;
  std::optional<double> ema_decay;
  bool are_counts_on_device;  // else they are the host's, and counted there
  double lr, beta1, beta2, eps, weight_decay;
  bool is_decoupled, is_maximizing;
  // One float each on the device, or null.
  const float *lr_there, *grad_scale, *found_inf, *clip;
};

void adam_step_cuda(const AdamCudaStep& step, Stream stream);

}  // namespace fastmodel
