// The passes of a linear layer and an activation on the CPU, for any Activation of activations.h.
//
// FLOPs and bytes are the linear layer's (linear.h); the activation adds 10 to 40 operations an
// output, 1 % of a product that is 1,024 terms deep, on values that are still in L1. Fused, out is
// written once; apart it is written, read and written again.
#pragma once

#include "common/activations.h"
#include "common/chain_rule.h"
#include "common/linear_activation.h"
#include "common/linear_forward.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

template <typename Activation, typename T>
void linear_activation_forward(const LinearActivationForward& a) {
  linear_forward<Activation>(static_cast<const T*>(a.x), static_cast<const T*>(a.weight),
                             static_cast<const T*>(a.bias), static_cast<T*>(a.out),
                             static_cast<T*>(a.pre), {a.rows, a.in_features, a.out_features},
                             a.threads);
}

template <typename Activation>
FASTMODEL_INLINE Vec chained(Vec saved, Vec grad) {
  return grad * Activation::derivative(saved);
}

template <typename Activation, typename T>
void linear_activation_backward(const LinearActivationBackward& a) {
  chain_rule(static_cast<const T*>(a.grad), static_cast<const T*>(a.saved), a.chained,
             static_cast<T*>(a.grad_bias), a.rows, a.out_features, a.threads, chained<Activation>);
  linear_backward(a.chained, static_cast<const T*>(a.x), static_cast<const T*>(a.weight),
                  static_cast<T*>(a.grad_x), static_cast<T*>(a.grad_weight),
                  {a.rows, a.in_features, a.out_features}, a.threads);
}

template <typename Activation, typename T>
void linear_activation_apply(const LinearActivationApply& a) {
  const T* pre = static_cast<const T*>(a.pre);
  T* out = static_cast<T*>(a.out);
  parallel_for((a.size + kLanes - 1) / kLanes, a.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * kLanes; i < std::min(end * kLanes, a.size); i += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, a.size - i));
      store_first(out + i, Activation::value(load_first(pre + i, lanes)), lanes);
    }
  });
}

template <typename Activation, typename T>
void linear_activation_chain(const LinearActivationChain& a) {
  chain_rule(static_cast<const T*>(a.grad), static_cast<const T*>(a.saved),
             static_cast<T*>(a.chained), static_cast<T*>(a.grad_bias), a.rows, a.out_features,
             a.threads, chained<Activation>);
}

// The four passes in the element type that the arguments name.
template <typename Activation>
struct LinearActivation {
  static void forward(const LinearActivationForward& a) {
    a.dtype == DType::kFloat32 ? linear_activation_forward<Activation, float>(a)
                               : linear_activation_forward<Activation, BFloat16>(a);
  }
  static void backward(const LinearActivationBackward& a) {
    a.dtype == DType::kFloat32 ? linear_activation_backward<Activation, float>(a)
                               : linear_activation_backward<Activation, BFloat16>(a);
  }
  static void apply(const LinearActivationApply& a) {
    a.dtype == DType::kFloat32 ? linear_activation_apply<Activation, float>(a)
                               : linear_activation_apply<Activation, BFloat16>(a);
  }
  static void chain(const LinearActivationChain& a) {
    a.dtype == DType::kFloat32 ? linear_activation_chain<Activation, float>(a)
                               : linear_activation_chain<Activation, BFloat16>(a);
  }
};

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
