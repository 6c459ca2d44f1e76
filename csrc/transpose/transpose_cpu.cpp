// transpose on the CPU.
//
// Bytes: everything read and written once, in vectors read along a row and stored element by
// element: one store a cycle is the floor. A block of rows is what a line of each column takes, so
// that lines are filled while they are in L1.
#include "common/threads.h"
#include "transpose/transpose.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

template <typename Element>
void transpose(const Transpose& a) {
  constexpr int64_t kBlock = 64 / sizeof(Element);
  const int64_t plane = a.rows * a.columns;
  parallel_for(a.count, a.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const Element* from = static_cast<const Element*>(a.from) + n * plane;
      Element* to = static_cast<Element*>(a.to) + n * plane;
      for (int64_t first = 0; first < a.rows; first += kBlock) {
        const int64_t last = std::min(a.rows, first + kBlock);
        for (int64_t c = 0; c < a.columns; ++c) {
          for (int64_t r = first; r < last; ++r) to[c * a.rows + r] = from[r * a.columns + c];
        }
      }
    }
  });
}

}  // namespace

void transpose_cpu(const Transpose& args) {
  args.element_bytes == 4 ? transpose<uint32_t>(args) : transpose<uint16_t>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
