// One float32 vector of the capability's width, from the compilers' vector extensions: arithmetic
// is written with operators and a * b + c becomes one FMA. Included by *_cpu.cpp files only.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#include "common/dtypes.h"

#define FASTMODEL_INLINE inline __attribute__((always_inline))
#define FASTMODEL_UNROLL _Pragma("GCC unroll 32")

// Sanitizers do not see what a masked load or store touches: their builds go lane by lane.
#if defined(__AVX512F__) && !defined(FASTMODEL_SANITIZE)
#define FASTMODEL_HAS_MASKS
#endif

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IVec __attribute__((vector_size(kLanes * 4)));
typedef uint16_t HalfBits __attribute__((vector_size(kLanes * 2)));
typedef uint8_t ByteVec __attribute__((vector_size(kLanes)));

FASTMODEL_INLINE Vec broadcast(float value) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_set1_ps(value));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec>(_mm256_set1_ps(value));
#else
  return Vec{value, value, value, value};
#endif
}

// 16 bits to 32, zeros above; and the lower 16 of 32. GCC 12 takes conversions of 512 bits apart.
FASTMODEL_INLINE IVec widen(HalfBits bits) {
#if defined(__AVX512F__)
  return reinterpret_cast<IVec>(
      _mm512_maskz_cvtepu16_epi32(0xFFFF, reinterpret_cast<__m256i>(bits)));
#else
  return __builtin_convertvector(bits, IVec);
#endif
}

FASTMODEL_INLINE HalfBits narrow(IVec v) {
#if defined(__AVX512F__)
  return reinterpret_cast<HalfBits>(
      _mm512_maskz_cvtepi32_epi16(0xFFFF, reinterpret_cast<__m512i>(v)));
#else
  return __builtin_convertvector(v, HalfBits);
#endif
}

FASTMODEL_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

FASTMODEL_INLINE Vec load(const BFloat16* p) {
  HalfBits bits;
  std::memcpy(&bits, p, sizeof(bits));
  const IVec wide = widen(bits) << 16;
  Vec v;
  std::memcpy(&v, &wide, sizeof(v));
  return v;
}

FASTMODEL_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof(v)); }

FASTMODEL_INLINE void store(BFloat16* p, Vec v) {
  IVec wide;
  std::memcpy(&wide, &v, sizeof(v));
  const IVec rounded = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16;
  const IVec is_nan = v != v;
  const IVec chosen = (is_nan & 0x7FC0) | (~is_nan & rounded);
  const HalfBits bits = narrow(chosen);
  std::memcpy(p, &bits, sizeof(bits));
}

// The first n lanes (0 <= n <= kLanes); the others read as 0 and are not touched in memory.
template <typename T>
FASTMODEL_INLINE Vec load_first(const T* p, int n) {
  if (n >= kLanes) return load(p);
  T lanes[kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

template <typename T>
FASTMODEL_INLINE void store_first(T* p, Vec v, int n) {
  if (n >= kLanes) return store(p, v);
  T lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

// The first n bytes as integers; the others read as 0.
FASTMODEL_INLINE IVec load_bytes(const uint8_t* p, int n) {
#if defined(FASTMODEL_HAS_MASKS)
  return reinterpret_cast<IVec>(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((1u << n) - 1, p)));
#else
  uint8_t bytes[kLanes] = {};
  std::memcpy(bytes, p, n >= kLanes ? kLanes : n);
#if defined(__AVX2__) && !defined(__AVX512F__)
  return reinterpret_cast<IVec>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
#else
  ByteVec wide;
  std::memcpy(&wide, bytes, sizeof(wide));
  return __builtin_convertvector(wide, IVec);
#endif
#endif
}

// Which of the first n <= 64 bytes are 0: bit i for byte i.
FASTMODEL_INLINE uint64_t zero_bytes(const uint8_t* p, int64_t n) {
#if defined(__AVX512F__)
  const uint64_t first = ~uint64_t{0} >> (64 - n);
  return _mm512_mask_cmpeq_epi8_mask(first, _mm512_maskz_loadu_epi8(first, p),
                                     _mm512_setzero_si512());
#else
  uint64_t found = 0;
  for (int64_t i = 0; i < n; ++i) found |= uint64_t{p[i] == 0} << i;
  return found;
#endif
}

// Writes (index, value) of each lane where keep is set (all bits), one after the other, and returns
// how many. What lies behind them, up to kLanes pairs in all, may be overwritten too.
FASTMODEL_INLINE int compress_pairs(void* to, IVec index, Vec value, IVec keep) {
#if defined(FASTMODEL_HAS_MASKS)
  const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const __m512i i = reinterpret_cast<__m512i>(index), v = reinterpret_cast<__m512i>(value);
  const uint32_t kept = _mm512_movepi32_mask(reinterpret_cast<__m512i>(keep));
  const __m512i first = _mm512_permutex2var_epi32(i, low, v);
  const __m512i second = _mm512_permutex2var_epi32(i, high, v);
  const int count = __builtin_popcount(kept & 0xFF);
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(kept & 0xFF, first));
  _mm512_storeu_si512(static_cast<char*>(to) + 8 * count,
                      _mm512_maskz_compress_epi64(kept >> 8, second));
  return __builtin_popcount(kept);
#else
  int count = 0;
  for (int i = 0; i < kLanes; ++i) {
    if (keep[i] == 0) continue;
    const int32_t at = index[i];
    const float lane = value[i];
    std::memcpy(static_cast<char*>(to) + 8 * count, &at, 4);
    std::memcpy(static_cast<char*>(to) + 8 * count + 4, &lane, 4);
    ++count;
  }
  return count;
#endif
}

// table[index] of each lane, an index below kLanes.
FASTMODEL_INLINE IVec look_up(IVec table, IVec index) {
#if defined(__AVX512F__)
  return reinterpret_cast<IVec>(_mm512_maskz_permutexvar_epi32(
      0xFFFF, reinterpret_cast<__m512i>(index), reinterpret_cast<__m512i>(table)));
#else
  IVec found = {};
  for (int i = 0; i < kLanes; ++i) found[i] = table[index[i]];
  return found;
#endif
}

// (a0, b0, a1, b1, ...) of the lower half of the lanes, and of the upper half.
FASTMODEL_INLINE Vec interleave_low(Vec a, Vec b) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return Vec(_mm512_permutex2var_ps(__m512(a), order, __m512(b)));
#elif defined(__AVX2__)
  const __m256 low = _mm256_unpacklo_ps(__m256(a), __m256(b));
  const __m256 high = _mm256_unpackhi_ps(__m256(a), __m256(b));
  return Vec(_mm256_permute2f128_ps(low, high, 0x20));
#else
  return Vec{a[0], b[0], a[1], b[1]};
#endif
}

FASTMODEL_INLINE Vec interleave_high(Vec a, Vec b) {
#if defined(__AVX512F__)
  const __m512i order =
      _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
  return Vec(_mm512_permutex2var_ps(__m512(a), order, __m512(b)));
#elif defined(__AVX2__)
  const __m256 low = _mm256_unpacklo_ps(__m256(a), __m256(b));
  const __m256 high = _mm256_unpackhi_ps(__m256(a), __m256(b));
  return Vec(_mm256_permute2f128_ps(low, high, 0x31));
#else
  return Vec{a[2], b[2], a[3], b[3]};
#endif
}

// (v1, v0, v3, v2, ...)
FASTMODEL_INLINE Vec swap_neighbours(Vec v) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_permute_ps(0xFFFF, __m512(v), 0xB1));
#elif defined(__AVX2__)
  return Vec(_mm256_permute_ps(__m256(v), 0xB1));
#else
  return Vec{v[1], v[0], v[3], v[2]};
#endif
}

// Writes (index, value) of every lane, one after the other.
FASTMODEL_INLINE void interleave_pairs(void* to, IVec index, Vec value) {
  const Vec pairs[2] = {interleave_low(Vec(index), value), interleave_high(Vec(index), value)};
  std::memcpy(to, pairs, sizeof(pairs));
}

// The first n integers as bytes.
FASTMODEL_INLINE void store_bytes(uint8_t* p, IVec v, int n) {
#if defined(FASTMODEL_HAS_MASKS)
  _mm_mask_storeu_epi8(p, (1u << n) - 1, _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v)));
#else
  const ByteVec bytes = __builtin_convertvector(v, ByteVec);
  std::memcpy(p, &bytes, n >= kLanes ? kLanes : n);
#endif
}

#if defined(FASTMODEL_HAS_MASKS)
template <>
FASTMODEL_INLINE Vec load_first<float>(const float* p, int n) {
  return reinterpret_cast<Vec>(_mm512_maskz_loadu_ps((1u << n) - 1, p));
}
template <>
FASTMODEL_INLINE void store_first<float>(float* p, Vec v, int n) {
  _mm512_mask_storeu_ps(p, (1u << n) - 1, reinterpret_cast<__m512>(v));
}
#endif

// The first n lanes (0 <= n <= kLanes), and 0 in the others.
FASTMODEL_INLINE Vec keep_first(Vec v, int n) {
  if (n >= kLanes) return v;
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_maskz_mov_ps((1u << n) - 1, __m512(v)));
#else
  for (int i = n; i < kLanes; ++i) v[i] = 0.0f;
  return v;
#endif
}

// The lanes in which a or b is NaN, a bit each.
FASTMODEL_INLINE uint32_t unordered_lanes(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_UNORD_Q);
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps(__m256(a), __m256(b), _CMP_UNORD_Q));
#else
  const IVec is_nan = (a != a) | (b != b);
  uint32_t lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= (is_nan[i] & 1u) << i;
  return lanes;
#endif
}

// ReLU as PyTorch has it: NaN stays NaN.
FASTMODEL_INLINE Vec relu(Vec v) { return v <= 0.0f ? Vec{} : v; }

FASTMODEL_INLINE Vec square_root(Vec v) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_maskz_sqrt_ps(0xFFFF, reinterpret_cast<__m512>(v)));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec>(_mm256_sqrt_ps(reinterpret_cast<__m256>(v)));
#else
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

// All lanes combined in halves: a chain over them would wait for each step in turn.
template <typename Combine>
FASTMODEL_INLINE float fold(Vec v, const Combine& combine) {
#if defined(__AVX512F__)
  v = combine(v, Vec(_mm512_maskz_shuffle_f32x4(0xFFFF, __m512(v), __m512(v), 0x4E)));
  v = combine(v, Vec(_mm512_maskz_shuffle_f32x4(0xFFFF, __m512(v), __m512(v), 0xB1)));
  v = combine(v, Vec(_mm512_maskz_permute_ps(0xFFFF, __m512(v), 0x4E)));
  v = combine(v, Vec(_mm512_maskz_permute_ps(0xFFFF, __m512(v), 0xB1)));
#elif defined(__AVX2__)
  v = combine(v, Vec(_mm256_permute2f128_ps(__m256(v), __m256(v), 0x01)));
  v = combine(v, Vec(_mm256_permute_ps(__m256(v), 0x4E)));
  v = combine(v, Vec(_mm256_permute_ps(__m256(v), 0xB1)));
#else
  v = combine(v, Vec{v[2], v[3], v[0], v[1]});
  v = combine(v, Vec{v[1], v[0], v[3], v[2]});
#endif
  return v[0];
}

FASTMODEL_INLINE float sum(Vec v) {
  return fold(v, [](Vec a, Vec b) { return a + b; });
}

// Of a vector without NaN.
FASTMODEL_INLINE float highest_lane(Vec v) {
  return fold(v, [](Vec a, Vec b) { return a > b ? a : b; });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
