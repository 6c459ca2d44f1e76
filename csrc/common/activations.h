// Activations of float32 vectors and their derivatives. Included by *_cpu.cpp files only.
//
// Each has value(z), and derivative(saved) from out for Sigmoid and Tanh, from z for the others,
// which also have both(z).
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

struct ValueAndSlope {
  Vec value, slope;
};

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
  static FASTMODEL_INLINE ValueAndSlope both(Vec z) {
    const Normal n = normal(z);
    return {z * n.cdf, z * n.density + n.cdf};
  }
  static FASTMODEL_INLINE Vec derivative(Vec z) { return both(z).slope; }
};

// s = sigmoid(z) and 1 - s: a subtraction would be off by z ulps once z multiplies it.
struct SigmoidAndRest {
  Vec s, rest;
};

FASTMODEL_INLINE SigmoidAndRest sigmoid_and_rest(Vec z) {
  const Vec e = exp(z < 0.0f ? z : -z);
  const Vec larger = 1.0f / (1.0f + e), smaller = e * larger;
  return {z < 0.0f ? smaller : larger, z < 0.0f ? larger : smaller};
}

struct Silu {
  static FASTMODEL_INLINE Vec value(Vec z) { return z * sigmoid(z); }
  static FASTMODEL_INLINE ValueAndSlope both(Vec z) {
    const SigmoidAndRest of = sigmoid_and_rest(z);
    return {z * of.s, of.s * (z * of.rest + 1.0f)};
  }
  static FASTMODEL_INLINE Vec derivative(Vec z) { return both(z).slope; }
};

// GELU's tanh approximation, z * (1 + tanh(u)) / 2 = z * sigmoid(2 u), u = sqrt(2 / pi) (z + k
// z^3). The sigmoid keeps the lower tail, which 1 + tanh(u) loses to cancellation.
struct GeluTanh {
  static constexpr float kTwiceScale = 0x1.988454p+0f, kCube = 0.044715f;

  // Beyond 15 the sigmoid is 0 or 1 in float32, and z^3 does not overflow.
  static FASTMODEL_INLINE Vec bounded(Vec z) {
    z = z < -15.0f ? broadcast(-15.0f) : z;
    return z > 15.0f ? broadcast(15.0f) : z;
  }
  static FASTMODEL_INLINE Vec twice_u(Vec b) {
    return (kTwiceScale * b) * (kCube * (b * b) + 1.0f);
  }
  static FASTMODEL_INLINE Vec value(Vec z) { return z * sigmoid(twice_u(bounded(z))); }
  static FASTMODEL_INLINE ValueAndSlope both(Vec z) {
    const Vec b = bounded(z);
    const SigmoidAndRest of = sigmoid_and_rest(twice_u(b));
    const Vec twice_u_slope = kTwiceScale * (3.0f * kCube * (b * b) + 1.0f);
    // z goes with s first: z * (1 - s) would overflow where s is 0.
    const Vec value = z * of.s;
    return {value, value * (of.rest * twice_u_slope) + of.s};
  }
};

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
