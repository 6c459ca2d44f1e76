// A norm's two passes in the element type that the arguments name.
#pragma once

#include "common/norm_backward.h"
#include "common/norm_forward.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

template <typename Norm, bool kHasResidual>
void run_norm_forward(const NormForward& a) {
  a.problem.dtype == DType::kFloat32 ? norm_forward<Norm, kHasResidual, float>(a)
                                     : norm_forward<Norm, kHasResidual, BFloat16>(a);
}

template <typename Norm, typename T>
void run_norm_backward_as(const NormBackward& a) {
  a.grad_weight != nullptr || a.grad_bias != nullptr ? norm_backward<Norm, true, T>(a)
                                                     : norm_backward<Norm, false, T>(a);
}

template <typename Norm>
void run_norm_backward(const NormBackward& a) {
  a.problem.dtype == DType::kFloat32 ? run_norm_backward_as<Norm, float>(a)
                                     : run_norm_backward_as<Norm, BFloat16>(a);
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
