// transpose on the CPU.
//
// Bytes: everything read and written once. Floats go in blocks through registers, half words
// element by element: one store a cycle is the floor there, and a block of rows is what a line of
// each column takes, so that lines are filled while they are in L1.
#include "common/threads.h"
#include "common/transpose_block.h"
#include "transpose/transpose.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// to[c][r] = from[r][c].
void transpose_plane(const float* from, float* to, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int high = static_cast<int>(std::min<int64_t>(kLanes, rows - r));
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int wide = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
      transpose_block(from + r * columns + c, columns, high, wide, to + c * rows + r, rows, high);
    }
  }
}

void transpose_plane(const uint16_t* from, uint16_t* to, int64_t rows, int64_t columns) {
  constexpr int64_t kBlock = 64 / sizeof(uint16_t);
  for (int64_t first = 0; first < rows; first += kBlock) {
    const int64_t last = std::min(rows, first + kBlock);
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = first; r < last; ++r) to[c * rows + r] = from[r * columns + c];
    }
  }
}

template <typename Element>
void transpose(const Transpose& a) {
  const int64_t plane = a.rows * a.columns;
  parallel_for(a.count, a.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      transpose_plane(static_cast<const Element*>(a.from) + n * plane,
                      static_cast<Element*>(a.to) + n * plane, a.rows, a.columns);
    }
  });
}

}  // namespace

void transpose_cpu(const Transpose& args) {
  args.element_bytes == 4 ? transpose<float>(args) : transpose<uint16_t>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
