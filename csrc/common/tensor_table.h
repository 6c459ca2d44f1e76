// The tensors of an optimizer's step as the kernels want them: addresses, sizes and one dtype.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtypes.h"

namespace fastmodel {

struct TensorTable {
  std::vector<std::vector<void*>> columns;  // params, grads, then each state entry
  std::vector<float*> steps;                // one count a parameter, or none at all
  std::vector<int64_t> sizes;
  DType dtype = DType::kFloat32;
};

}  // namespace fastmodel
