// Element types of the kernels. Arithmetic is float32; bfloat16 is a storage format.
#pragma once

#include <cstdint>
#include <cstring>

namespace fastmodel {

// The dtype codes that Python passes; see fastmodel/ops/native.py.
enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

struct BFloat16 {
  uint16_t bits;
};

// The GPU's kernels alone take it.
struct Half {
  uint16_t bits;
};

}  // namespace fastmodel

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

inline float to_float(float value) { return value; }

inline float to_float(BFloat16 value) {
  const uint32_t wide = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &wide, sizeof(result));
  return result;
}

// Round to nearest even, as PyTorch does; NaN stays NaN.
inline BFloat16 to_bfloat16(float value) {
  uint32_t wide;
  std::memcpy(&wide, &value, sizeof(wide));
  if (value != value) return BFloat16{0x7FC0};
  wide += 0x7FFF + ((wide >> 16) & 1);
  return BFloat16{static_cast<uint16_t>(wide >> 16)};
}

inline void from_float(float value, float* out) { *out = value; }
inline void from_float(float value, BFloat16* out) { *out = to_bfloat16(value); }

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
