// exp and expm1 of a float32 vector. Included by *_cpu.cpp files only.
//
// exp(x) = 2^n * exp(r), n = round(x / ln 2), r = x - n * ln 2 in [-ln 2 / 2, ln 2 / 2], and
// exp(r) = 1 + r + r^2 * q(r) with q of degree 4, the minimax fit of the relative error of exp(r)
// on that interval: 3.1e-9, which is 0.05 units of 2^-24.
//
// Error, measured over every float32 in [-104, 88.72] against exp in float64: at most 1.02 ulp with
// FMA and 0.99 ulp without, results below the normal range included.
// exp(-inf) = 0, exp(+inf) = +inf, exp(NaN) = NaN.
#pragma once

#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// v * 2^n for whole n, -252 <= n <= 254.
FASTMODEL_INLINE Vec scale(Vec v, Vec n) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_scalef_ps(0xFFFF, __m512(v), __m512(n)));
#else
  // In two steps, because 2^n alone is out of range where the result is subnormal or near the top.
  const auto power_of_two = [](IVec k) {
    const IVec bits = (k + 127) << 23;
    Vec power;
    std::memcpy(&power, &bits, sizeof(power));
    return power;
  };
  const IVec whole = __builtin_convertvector(n, IVec), half = whole >> 1;
  return v * power_of_two(half) * power_of_two(whole - half);
#endif
}

// exp(x) = 2^n * (1 + fraction).
struct ExpParts {
  Vec n, fraction;
};

FASTMODEL_INLINE ExpParts exp_parts(Vec x) {
  // Adding and taking away 1.5 * 2^23 rounds to an integer.
  constexpr float kLog2E = 0x1.715476p+0f, kRound = 12582912.0f;
  const Vec n = (x * kLog2E + kRound) - kRound;

  // ln 2 in two parts; the high one has 15 significant bits, so n * high is exact without FMA too.
  constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  const Vec r = (x - n * kLn2High) - n * kLn2Low;

  Vec q = broadcast(0x1.6a2434p-10f);
  q = q * r + 0x1.1239e2p-7f;
  q = q * r + 0x1.5558f2p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  return {n, q * r * r + r};
}

FASTMODEL_INLINE Vec exp(Vec x) {
  // Beyond these bounds the result is 0 or +inf in float32; they keep n within two powers of two.
  x = x < -105.0f ? broadcast(-105.0f) : x;
  x = x > 90.0f ? broadcast(90.0f) : x;
  const ExpParts parts = exp_parts(x);
  return scale(parts.fraction + 1.0f, parts.n);
}

// exp(x) - 1 for 0 <= x <= 80, without the cancellation near 0.
FASTMODEL_INLINE Vec expm1(Vec x) {
  const ExpParts parts = exp_parts(x);
  return scale(parts.fraction, parts.n) + (scale(broadcast(1.0f), parts.n) - 1.0f);
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
