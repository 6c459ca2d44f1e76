// The passes of a linear layer and an activation on the CPU, for any Activation of activations.h.
//
// FLOPs and bytes are the linear layer's (linear.h); the activation adds 10 to 40 operations an
// output, 1 % of a product that is 1,024 terms deep, on values that are still in L1. Fused, out is
// written once; apart it is written, read and written again.
#pragma once

#include <vector>

#include "common/activations.h"
#include "common/chain_rule.h"
#include "common/linear.h"
#include "common/linear_activation.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Rows whose sums wait in scratch for their activation: kLanes columns of them are 16 KiB at most.
constexpr int64_t kScratchRows = 256;

// scratch[r][0 .. count) = the products of `rows` rows of x with `count` rows of w.
template <typename T>
void dot_columns(const T* x, const T* w, int64_t rows, int64_t count, int64_t in, float* scratch) {
  float tile[kDotRows][kDotOuts];
  for (int64_t o = 0; o < count; o += kDotOuts) {
    const bool whole = o + kDotOuts <= count;
    int64_t m = 0;
    for (; whole && m + kDotRows <= rows; m += kDotRows) {
      dot_tile<kDotRows, kDotOuts>(x + m * in, w + o * in, in, tile);
      for (int r = 0; r < kDotRows; ++r) {
        for (int c = 0; c < kDotOuts; ++c) scratch[(m + r) * kLanes + o + c] = tile[r][c];
      }
    }
    for (; m < rows; ++m) {
      for (int64_t c = o; c < std::min<int64_t>(o + kDotOuts, count); ++c) {
        dot_tile<1, 1>(x + m * in, w + c * in, in, tile);
        scratch[m * kLanes + c] = tile[0][0];
      }
    }
  }
}

template <typename Activation, typename T>
void linear_activation_forward(const LinearActivationForward& a) {
  const T* x = static_cast<const T*>(a.x);
  const T* weight = static_cast<const T*>(a.weight);
  const T* bias = static_cast<const T*>(a.bias);
  T* out = static_cast<T*>(a.out);
  T* pre = static_cast<T*>(a.pre);
  const int64_t in = a.in_features, outs = a.out_features;
  const int64_t groups = (outs + kLanes - 1) / kLanes;
  parallel_for(groups, a.threads, [&](int64_t begin, int64_t end, int) {
    // Unwritten lanes of a last group stay 0.
    std::vector<float> scratch(std::min(kScratchRows, a.rows) * kLanes);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t o = group * kLanes;
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, outs - o));
      const Vec shift = bias == nullptr ? Vec{} : load_first(bias + o, lanes);
      for (int64_t first = 0; first < a.rows; first += kScratchRows) {
        const int64_t rows = std::min(kScratchRows, a.rows - first);
        dot_columns(x + first * in, weight + o * in, rows, lanes, in, scratch.data());
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t at = (first + r) * outs + o;
          const Vec z = load(scratch.data() + r * kLanes) + shift;
          if (pre != nullptr) store_first(pre + at, z, lanes);
          store_first(out + at, Activation::value(z), lanes);
        }
      }
    }
  });
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
