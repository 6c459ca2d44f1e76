// mse_loss on a GPU; the formula stands in mse_loss.h. Pointers and sizes are those of
// MseLossProblem.
#pragma once

#include <cstdint>

#include "common/cuda_stream.h"
#include "mse_loss/mse_loss.h"

namespace fastmodel {

// The most partial sums that a forward leaves: float64 each, in `partials`.
constexpr int64_t kMseLossPartials = 4096;

struct MseLossForwardCuda {
  MseLossProblem problem;
  void* loss;        // as x for kNone, else one element
  double* partials;  // (kMseLossPartials) scratch; not read for kNone
};

void mse_loss_forward_cuda(const MseLossForwardCuda& args, Stream stream);
void mse_loss_backward_cuda(const MseLossBackward& args, Stream stream);

}  // namespace fastmodel
