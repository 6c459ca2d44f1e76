#include <pybind11/stl.h>

#include "common/bindings.h"
#include "grad_norm/grad_norm_cuda.h"

namespace fastmodel {
namespace {

using Tables = std::vector<std::shared_ptr<TensorTable>>;

std::vector<TensorTablePtr> constant(const Tables& tables) {
  return {tables.begin(), tables.end()};
}

}  // namespace

void bind_grad_norm_cuda(py::module_& module) {
  module.def(
      "grad_square_sum_parts_cuda",
      [](const Tables& tables, Stream stream) {
        return grad_square_sum_parts_cuda(constant(tables), stream);
      },
      ReleaseGil());
  module.def(
      "grad_square_sum_cuda",
      [](const Tables& tables, uintptr_t parts, uintptr_t sum, Stream stream) {
        grad_square_sum_cuda(constant(tables), pointer<double>(parts), pointer<double>(sum),
                             stream);
      },
      ReleaseGil());
  module.def(
      "grad_clip_cuda",
      [](uintptr_t sum, double max_norm, uintptr_t grad_scale, uintptr_t clip, Stream stream) {
        grad_clip_cuda(pointer<const double>(sum), max_norm, pointer<const float>(grad_scale),
                       pointer<float>(clip), stream);
      },
      ReleaseGil());
}

}  // namespace fastmodel
