#include "common/capability.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastmodel {
namespace {

Capability best_capability() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("bmi2");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512cd") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx2 && has_avx512) return Capability::kAvx512;
  if (has_avx2) return Capability::kAvx2;
#endif
  return Capability::kPlain;
}

Capability choose_capability() {
  const Capability best = best_capability();
  const char* forced = std::getenv("FASTMODEL_CPU_CAPABILITY");
  if (forced == nullptr || *forced == '\0') return best;
  for (const Capability candidate : {Capability::kPlain, Capability::kAvx2, Capability::kAvx512}) {
    if (std::string(forced) != capability_name(candidate)) continue;
    if (candidate <= best) return candidate;
    throw std::runtime_error(std::string("FASTMODEL_CPU_CAPABILITY=") + forced +
                             " is not supported by this machine; its best is " +
                             capability_name(best));
  }
  throw std::runtime_error(std::string("FASTMODEL_CPU_CAPABILITY=") + forced +
                           " is unknown; set plain, avx2 or avx512, or unset it");
}

}  // namespace

const char* capability_name(Capability capability) {
  switch (capability) {
    case Capability::kAvx512:
      return "avx512";
    case Capability::kAvx2:
      return "avx2";
    case Capability::kPlain:
      return "plain";
  }
  return "plain";
}

Capability cpu_capability() {
  static const Capability chosen = choose_capability();
  return chosen;
}

}  // namespace fastmodel
