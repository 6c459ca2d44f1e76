// What a DLPack view says about a tensor's layout.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "common/dlpack.h"
#include "common/dtypes.h"

namespace fastmodel::dlpack {

inline int64_t size_of(const Tensor& tensor) {
  int64_t size = 1;
  for (int i = 0; i < tensor.ndim; ++i) size *= tensor.shape[i];
  return size;
}

// Do the strides, in some order of the dimensions, walk memory without gap or overlap?
inline bool is_dense(const Tensor& tensor) {
  if (size_of(tensor) == 0) return true;
  int64_t expected = 1;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] == 1) continue;
    if (tensor.strides[i] != expected) break;
    expected *= tensor.shape[i];
    if (i == 0) return true;
  }
  std::vector<std::pair<int64_t, int64_t>> steps;
  for (int i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] != 1) steps.emplace_back(tensor.strides[i], tensor.shape[i]);
  }
  std::sort(steps.begin(), steps.end());
  expected = 1;
  for (const auto& [stride, size] : steps) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// Same shape, and equal offsets mean equal elements: the strides of dimensions of one element do
// not count.
inline bool has_same_layout(const Tensor& a, const Tensor& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
  }
  if (size_of(a) == 0) return true;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != 1 && a.strides[i] != b.strides[i]) return false;
  }
  return true;
}

// None if no kernel takes it.
inline std::optional<DType> dtype_of(const Tensor& tensor) {
  if (tensor.dtype.lanes != 1) return std::nullopt;
  if (tensor.dtype.code == kFloat && tensor.dtype.bits == 32) return DType::kFloat32;
  if (tensor.dtype.code == kBfloat && tensor.dtype.bits == 16) return DType::kBFloat16;
  if (tensor.dtype.code == kFloat && tensor.dtype.bits == 16) return DType::kFloat16;
  return std::nullopt;
}

}  // namespace fastmodel::dlpack
