// grad_norm on the GPU: the sum of the squares of the gradients on one device, and the factor that
// clips them, without a wait for either.
#pragma once

#include <cstdint>
#include <vector>

#include "common/cuda_stream.h"
#include "common/tensor_table.h"

namespace fastmodel {

// How many partial sums grad_square_sum_cuda makes of these tables.
int64_t grad_square_sum_parts_cuda(const std::vector<TensorTablePtr>& tables, Stream stream);

// parts: room for the partial sums; sum: their sum.
void grad_square_sum_cuda(const std::vector<TensorTablePtr>& tables, double* parts, double* sum,
                          Stream stream);

// clip = min(1, max_norm / (sqrt(sum) / grad_scale + 1e-6)), as torch.nn.utils.clip_grad_norm_; NaN
// where the sum is.
void grad_clip_cuda(const double* sum, double max_norm, const float* grad_scale, float* clip,
                    Stream stream);

}  // namespace fastmodel
