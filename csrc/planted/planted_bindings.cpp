#include "common/bindings.h"
#include "planted/planted.h"

namespace fastmodel {

void bind_planted(py::module_& module) {
  module.attr("SANITIZER") = FASTMODEL_SANITIZE;
  py::enum_<Fault>(module, "Fault")
      .value("read", Fault::kRead)
      .value("masked_read", Fault::kMaskedRead)
      .value("write", Fault::kWrite)
      .value("masked_write", Fault::kMaskedWrite)
      .value("scratch", Fault::kScratch)
      .value("overflow", Fault::kOverflow)
      .value("race", Fault::kRace)
      .value("none", Fault::kNone);
  module.def(
      "planted_cpu",
      [](Fault fault, uintptr_t x, int64_t size, int threads) {
        planted_cpu({fault, pointer<float>(x), size, threads});
      },
      ReleaseGil());
}

}  // namespace fastmodel
