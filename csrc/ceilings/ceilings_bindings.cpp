#include <vector>

#include "ceilings/ceilings.h"
#include "common/bindings.h"

namespace fastmodel {

void bind_ceilings(py::module_& module) {
  // Returns the FLOPs that were done.
  module.def(
      "fma_loop_cpu",
      [](int64_t iterations, int threads) {
        std::vector<float> out(threads);
        int64_t flops = 0;
        fma_loop_cpu({out.data(), &flops, iterations, threads});
        return flops;
      },
      ReleaseGil());
}

}  // namespace fastmodel
