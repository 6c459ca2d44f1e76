// transpose: to[n][c][r] = from[n][r][c], (count, rows, columns) to (count, columns, rows),
// elements of any type of 2 or 4 bytes. An image with channels innermost, (pixels, channels),
// becomes one with channels outermost, and back.
#pragma once

#include <cstdint>

#include "common/capability.h"

namespace fastmodel {

struct Transpose {
  const void* from;
  void* to;
  int64_t count, rows, columns;
  int element_bytes;  // 2 or 4
  int threads;
};

FASTMODEL_CPU_KERNEL(transpose_cpu, Transpose)

}  // namespace fastmodel
