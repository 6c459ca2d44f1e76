// Activations of float32 vectors and their derivatives. Included by *_cpu.cpp files only.
//
// Each has value(z), and derivative(saved) from out for Sigmoid and Tanh, from z for Gelu and Silu.
// Infinity and NaN give what PyTorch's own functions give.
#pragma once

#include "common/exp.h"
#include "common/normal.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// 1 / (1 + exp(-z)), by an exponential that cannot overflow.
FASTMODEL_INLINE Vec sigmoid(Vec z) {
  const Vec e = exp(z < 0.0f ? z : -z);
  return (z < 0.0f ? e : broadcast(1.0f)) / (1.0f + e);
}

// With m = exp(2 |z|) - 1, tanh |z| = m / (m + 2), accurate near 0 as m is.
FASTMODEL_INLINE Vec tanh(Vec z) {
  Vec twice = 2.0f * (z < 0.0f ? -z : z);
  twice = twice > 20.0f ? broadcast(20.0f) : twice;  // 1 - tanh 10 is far below half an ulp
  const Vec m = expm1(twice);
  const Vec value = m / (m + 2.0f);
  return z < 0.0f ? -value : value;
}

struct Sigmoid {
  static FASTMODEL_INLINE Vec value(Vec z) { return sigmoid(z); }
  static FASTMODEL_INLINE Vec derivative(Vec out) { return out * (1.0f - out); }
};

struct Tanh {
  static FASTMODEL_INLINE Vec value(Vec z) { return tanh(z); }
  static FASTMODEL_INLINE Vec derivative(Vec out) { return 1.0f - out * out; }
};

struct Gelu {
  static FASTMODEL_INLINE Vec value(Vec z) { return z * normal(z).cdf; }
  static FASTMODEL_INLINE Vec derivative(Vec z) {
    const Normal n = normal(z);
    return z * n.density + n.cdf;
  }
};

struct Silu {
  static FASTMODEL_INLINE Vec value(Vec z) { return z * sigmoid(z); }
  static FASTMODEL_INLINE Vec derivative(Vec z) {
    // 1 - sigmoid(z) by a subtraction would be off by z ulps once z multiplies it.
    const Vec e = exp(z < 0.0f ? z : -z);
    const Vec larger = 1.0f / (1.0f + e), smaller = e * larger;
    const Vec s = z < 0.0f ? smaller : larger, rest = z < 0.0f ? larger : smaller;
    return s * (z * rest + 1.0f);
  }
};

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
