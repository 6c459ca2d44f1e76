// A pool window's maximum, its place, and how both are written.
#pragma once

#include <cmath>

#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// The window's maximum so far and where it was seen.
template <int kVecs>
struct WindowMax {
  Vec value[kVecs];
  IVec position[kVecs] = {};

  FASTMODEL_INLINE WindowMax() {
    for (int v = 0; v < kVecs; ++v) value[v] = broadcast(-INFINITY);
  }

  template <int kPixels>
  FASTMODEL_INLINE void take(const Vec (&acc)[kPixels][kVecs], int64_t first) {
    for (int v = 0; v < kVecs; ++v) {
      for (int i = 0; i < kPixels; ++i) {
        const IVec here = IVec{} + static_cast<int32_t>(first + i);
        const IVec is_new = (acc[i][v] > value[v]) | (acc[i][v] != acc[i][v]);
        value[v] = is_new ? acc[i][v] : value[v];
        position[v] = is_new ? here : position[v];
      }
    }
  }

  template <typename T>
  FASTMODEL_INLINE void write(int v, int32_t dead, T* out, uint8_t* argmax, int lanes) const {
    store_first(out, relu(value[v]), lanes);
    store_bytes(argmax, value[v] <= 0.0f ? IVec{} + dead : position[v], lanes);
  }
};

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
