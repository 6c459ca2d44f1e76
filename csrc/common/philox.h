// Philox4x32-7, a counter-based generator: four words of 32 random bits from a key and a counter
// of 128 bits, with no state between calls, so that any element's bits can be had at any time by
// any thread.
//
// A round: (c0, c1, c2, c3) -> (high(M1 c2) ^ c1 ^ k0, low(M1 c2), high(M0 c0) ^ c3 ^ k1,
// low(M0 c0)), and the key grows by the Weyl constants: two multiplies, two shifts and four
// exclusive-ors for each half vector and round. Seven rounds are the fewest that pass all of
// TestU01's BigCrush (table 2 of the paper); its default of ten is a margin of safety.
//
// Source: Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

constexpr int kPhiloxRounds = 7;

// 32 random bits a lane.
typedef uint32_t UVec __attribute__((vector_size(kLanes * 4)));
// Half of the lanes, each in the lower half of 64 bits; what the upper half holds does not matter.
typedef uint64_t WideVec __attribute__((vector_size(kLanes * 4)));

// The product of the lower halves.
FASTMODEL_INLINE WideVec multiply_low(WideVec a, uint32_t b) {
#if defined(__AVX512F__)
  return reinterpret_cast<WideVec>(
      _mm512_maskz_mul_epu32(0xFF, reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<WideVec>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(b)));
#else
  return (a & 0xFFFFFFFFu) * b;
#endif
}

// words[w][l] is word w of the counter whose lower 64 bits are `counter` + l, and whose upper are
// c2 and c3. `counter` + kLanes must not carry into bit 32.
FASTMODEL_INLINE void philox(uint64_t counter, uint32_t c2, uint32_t c3, uint64_t key,
                             UVec (&words)[4]) {
  constexpr int kHalf = kLanes / 2;
  WideVec even[4], odd[4];
  for (int l = 0; l < kHalf; ++l) {
    even[0][l] = counter + 2 * l;
    odd[0][l] = counter + 2 * l + 1;
  }
  even[1] = odd[1] = WideVec{} + (counter >> 32);
  even[2] = odd[2] = WideVec{} + c2;
  even[3] = odd[3] = WideVec{} + c3;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  const auto round = [&](WideVec(&c)[4]) __attribute__((always_inline)) {
    const WideVec p0 = multiply_low(c[0], 0xD2511F53u), p1 = multiply_low(c[2], 0xCD9E8D57u);
    c[0] = (p1 >> 32) ^ c[1] ^ k0;
    c[1] = p1;
    c[2] = (p0 >> 32) ^ c[3] ^ k1;
    c[3] = p0;
  };
  FASTMODEL_UNROLL
  for (int i = 0; i < kPhiloxRounds; ++i) {
    round(even);
    round(odd);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  FASTMODEL_UNROLL
  for (int w = 0; w < 4; ++w) {
    words[w] = reinterpret_cast<UVec>((even[w] & 0xFFFFFFFFu) | (odd[w] << 32));
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
