#include "common/bindings.h"
#include "transpose/transpose.h"

namespace fastmodel {

void bind_transpose(py::module_& module) {
  module.def(
      "transpose_cpu",
      [](uintptr_t from, uintptr_t to, int64_t count, int64_t rows, int64_t columns,
         int element_bytes, int threads) {
        transpose_cpu(
            {pointer<void>(from), pointer<void>(to), count, rows, columns, element_bytes, threads});
      },
      ReleaseGil());
}

}  // namespace fastmodel
