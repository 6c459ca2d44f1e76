// The standard normal distribution of a float32 vector: its function Phi(z) = (1 + erf(z / sqrt 2))
// / 2 and its density. Included by *_cpu.cpp files only.
//
// With a = |z|, Phi(-a) = exp(-a^2 / 2) * t * q(t - 1/2), t = 1 / (1 + 0.3 a), and q of degree 9: a
// fit of our own of the relative error on 0 <= a <= 15, 2.5e-8 with the coefficients rounded (0.4
// units of 2^-24). Phi(a) = 1 - Phi(-a). So the lower tail keeps its relative accuracy, which
// (1 + erf) / 2 loses to cancellation.
//
// a^2 / 2 is taken in two floats: one alone would cost the tail up to 100 ulp.
#pragma once

#include "common/exp.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

struct Normal {
  Vec cdf, density;
};

FASTMODEL_INLINE Normal normal(Vec z) {
  Vec a = z < 0.0f ? -z : z;
  a = a > 15.0f ? broadcast(15.0f) : a;  // Phi(-15) is 0 in float32

  // The upper 12 bits of a have an exact square.
  IVec bits;
  std::memcpy(&bits, &a, sizeof(bits));
  bits &= ~0xFFF;
  Vec upper;
  std::memcpy(&upper, &bits, sizeof(upper));
  const Vec square = 0.5f * upper * upper;
  const Vec rest = 0.5f * (a - upper) * (a + upper);
  const Vec sum = square + rest;
  const Vec lost = rest - (sum - square);
  const Vec power = exp(-sum);
  const Vec e = power - power * lost;

  const Vec t = 1.0f / (1.0f + 0.3f * a);
  const Vec u = t - 0.5f;
  Vec q = broadcast(-0x1.51fadp-6f);
  q = q * u + 0x1.41b67cp-6f;
  q = q * u + 0x1.263a3ep-5f;
  q = q * u + -0x1.2aafeap-5f;
  q = q * u + -0x1.3da6bep-4f;
  q = q * u + 0x1.dc0fbcp-6f;
  q = q * u + 0x1.c6d344p-3f;
  q = q * u + 0x1.6281f2p-2f;
  q = q * u + 0x1.510f0cp-2f;
  q = q * u + 0x1.c69888p-3f;
  const Vec tail = e * (t * q);

  constexpr float kInverseRootTwoPi = 0x1.988454p-2f;
  return {z < 0.0f ? tail : 1.0f - tail, e * kInverseRootTwoPi};
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
