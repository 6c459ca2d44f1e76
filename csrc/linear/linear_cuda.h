// The elementwise halves of the ops that are a linear layer and an activation, on a GPU; the
// products between them are the library's. Shapes and `saved` stand in common/linear_activation.h.
#pragma once

#include <cstdint>

#include "common/cuda_stream.h"
#include "common/linear_activation.h"

namespace fastmodel {

// The codes that Python passes; see fastmodel/ops/linear_cuda.py.
enum class Activation : int { kRelu = 0, kGelu = 1, kSilu = 2, kSigmoid = 3, kTanh = 4 };

// How many partial sums of the bias' gradient the chain leaves.
int64_t linear_chain_partials(int64_t rows);

// LinearActivationChain's `chained` and grad_bias, the latter by way of `partials`:
// (linear_chain_partials(rows), out_features), not read where grad_bias is null.
struct LinearChainCuda {
  LinearActivationChain chain;
  float* partials;
};

void linear_apply_cuda(Activation activation, const LinearActivationApply& args, Stream stream);
void linear_chain_cuda(Activation activation, const LinearChainCuda& args, Stream stream);

}  // namespace fastmodel
