// Which build of a CPU kernel runs on this machine.
//
// Every *_cpu.cpp is compiled once per capability, inside `namespace
// fastmodel::FASTMODEL_CAPABILITY`. FASTMODEL_CPU_KERNEL(name, Args) declares the builds and
// `fastmodel::name`, which calls the chosen one.
#pragma once

namespace fastmodel {

enum class Capability { kPlain, kAvx2, kAvx512 };

// The best capability of this machine, or the one that FASTMODEL_CPU_CAPABILITY names
// (plain, avx2, avx512). Throws std::runtime_error if that is unknown or not supported here.
Capability cpu_capability();
const char* capability_name(Capability capability);

}  // namespace fastmodel

#if defined(__x86_64__)
#define FASTMODEL_CPU_KERNEL(name, Args) \
  namespace plain {                      \
  void name(const Args& args);           \
  }                                      \
  namespace avx2 {                       \
  void name(const Args& args);           \
  }                                      \
  namespace avx512 {                     \
  void name(const Args& args);           \
  }                                      \
  inline void name(const Args& args) {   \
    switch (cpu_capability()) {          \
      case Capability::kAvx512:          \
        return avx512::name(args);       \
      case Capability::kAvx2:            \
        return avx2::name(args);         \
      case Capability::kPlain:           \
        return plain::name(args);        \
    }                                    \
  }
#else
#define FASTMODEL_CPU_KERNEL(name, Args) \
  namespace plain {                      \
  void name(const Args& args);           \
  }                                      \
  inline void name(const Args& args) { plain::name(args); }
#endif
