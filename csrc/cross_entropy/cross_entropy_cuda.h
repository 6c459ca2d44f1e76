// cross_entropy on a GPU; the formula stands in cross_entropy.h, as do the fields of the problem.
#pragma once

#include "common/cuda_stream.h"
#include "cross_entropy/cross_entropy.h"

namespace fastmodel {

// What every pass needs beside its tensors: float32 scratch of rows + 2.
struct CrossEntropyForwardCuda {
  CrossEntropyProblem problem;
  void* loss;      // (rows) for kNone, else one element
  float* stats;    // (2 * rows + 1): max, log_sum, divisor; null if not wanted
  void* grad_x;    // as x: grad_x for grad = 1, not for kNone; null if not wanted
  float* scratch;  // (rows + 2)
};

struct CrossEntropyBackwardCuda {
  CrossEntropyProblem problem;
  const void* grad;        // (rows) for kNone, else one element
  const float* stats;      // as forward left it
  void* grad_x;            // as x, or null if not wanted
  void* grad_probability;  // as probability, or null if not wanted
  float* scratch;          // (rows + 2)
};

// A class index out of range fails the device; see common/cuda_assert.cuh.
void cross_entropy_forward_cuda(const CrossEntropyForwardCuda& args, Stream stream);
void cross_entropy_backward_cuda(const CrossEntropyBackwardCuda& args, Stream stream);

// gradient *= *factor, at no cost where that is 1.
void cross_entropy_scale_cuda(void* gradient, const void* factor, int64_t size, DType dtype,
                              Stream stream);

}  // namespace fastmodel
