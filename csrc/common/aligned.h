// Scratch on cache lines: a vector that straddles two of them costs two loads.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace fastmodel {

struct FreeAligned {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); }
};
using AlignedFloats = std::unique_ptr<float[], FreeAligned>;

// Uninitialised.
inline AlignedFloats aligned_floats(int64_t count) {
  return AlignedFloats(new (std::align_val_t(64)) float[count]);
}

// `count` filled up to whole cache lines.
inline int64_t whole_lines(int64_t count) { return (count + 15) / 16 * 16; }

}  // namespace fastmodel
