// The tensors of a parameter group as the kernels want them: addresses, sizes and dtypes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/dtypes.h"

namespace fastmodel {

struct TensorTable {
  std::vector<std::vector<void*>> columns;  // params, grads, then each state entry
  std::vector<float*> steps;                // one count a parameter, or none at all
  std::vector<int64_t> sizes;
  std::vector<uint32_t> ordinals;  // the parameter's place among all of its optimizer
  DType dtype = DType::kFloat32;
  DType state_dtype = DType::kFloat32;
  bool are_steps_on_cpu = true;
};

using TensorTablePtr = std::shared_ptr<const TensorTable>;

inline int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace fastmodel
