// planted: faults made on purpose, one of each kind that the sanitizers are there to catch. Built
// with FASTMODEL_SANITIZE alone; tests/sanitized asks for each and sees the process die of it.
#pragma once

#include <cstdint>

#include "common/capability.h"

namespace fastmodel {

enum class Fault { kRead, kMaskedRead, kWrite, kMaskedWrite, kScratch, kOverflow, kRace, kNone };

// x holds `size` floats.
struct Planted {
  Fault fault;
  float* x;
  int64_t size;
  int threads;
};

FASTMODEL_CPU_KERNEL(planted_cpu, Planted)

}  // namespace fastmodel
