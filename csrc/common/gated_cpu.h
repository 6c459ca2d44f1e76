// The gated linear units on the CPU, for any Activation of activations.h that has both(z).
//
// Bytes an element of float32: forward reads 8 and writes 4, backward reads 12 and writes 8.
// PyTorch's two ops move 20 forward (the activation is written and read again) and some 36
// backward. About 25 operations for the exponential: at 16 lanes and two ports under a nanosecond,
// so tensors beyond the caches are bound by memory.
#pragma once

#include "common/activations.h"
#include "common/gated.h"
#include "common/huge_pages.h"
#include "common/threads.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Elements of a row that one task takes.
constexpr int64_t kGatedChunk = 4096;

// A thread takes at least this many elements: some 10 us of work, against a few to start a team.
constexpr int64_t kGatedPerThread = 16384;

// Calls body(row, column, lanes, at) for every vector; `at` is where it lies in a contiguous
// result.
template <typename Body>
void for_each_gated(int64_t rows, int64_t columns, int threads, const Body& body) {
  const int64_t parts = (columns + kGatedChunk - 1) / kGatedChunk;
  const int64_t most = std::max<int64_t>(rows * columns / kGatedPerThread, 1);
  const int used = static_cast<int>(std::min<int64_t>(threads, most));
  parallel_for(rows * parts, used, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / parts, first = task % parts * kGatedChunk;
      const int64_t last = std::min(columns, first + kGatedChunk), at = row * columns;
      int64_t c = first;
      for (; c + kLanes <= last; c += kLanes) body(row, c, kLanes, at + c);
      if (c < last) body(row, c, static_cast<int>(last - c), at + c);
    }
  });
}

template <typename Activation, typename T>
void gated_forward(const GatedForward& a) {
  const T* gate = static_cast<const T*>(a.gate);
  const T* up = static_cast<const T*>(a.up);
  T* out = static_cast<T*>(a.out);
  advise_huge_pages(out, a.rows * a.columns * sizeof(T));
  for_each_gated(a.rows, a.columns, a.threads, [&](int64_t r, int64_t c, int lanes, int64_t at) {
    const Vec z = load_first(gate + r * a.gate_step + c, lanes);
    const Vec u = load_first(up + r * a.up_step + c, lanes);
    store_first(out + at, Activation::value(z) * u, lanes);
  });
}

template <typename Activation, typename T>
void gated_backward(const GatedBackward& a) {
  const T* grad = static_cast<const T*>(a.grad);
  const T* gate = static_cast<const T*>(a.gate);
  const T* up = static_cast<const T*>(a.up);
  T* grad_gate = static_cast<T*>(a.grad_gate);
  T* grad_up = static_cast<T*>(a.grad_up);
  advise_huge_pages(grad_gate, a.rows * a.columns * sizeof(T));
  advise_huge_pages(grad_up, a.rows * a.columns * sizeof(T));
  for_each_gated(a.rows, a.columns, a.threads, [&](int64_t r, int64_t c, int lanes, int64_t at) {
    const Vec g = load_first(grad + r * a.grad_step + c, lanes);
    const ValueAndSlope of = Activation::both(load_first(gate + r * a.gate_step + c, lanes));
    if (grad_gate != nullptr) {
      const Vec u = load_first(up + r * a.up_step + c, lanes);
      store_first(grad_gate + at, g * u * of.slope, lanes);
    }
    if (grad_up != nullptr) store_first(grad_up + at, g * of.value, lanes);
  });
}

// Both passes in the element type that the arguments name.
template <typename Activation>
struct Gated {
  static void forward(const GatedForward& a) {
    a.dtype == DType::kFloat32 ? gated_forward<Activation, float>(a)
                               : gated_forward<Activation, BFloat16>(a);
  }
  static void backward(const GatedBackward& a) {
    a.dtype == DType::kFloat32 ? gated_backward<Activation, float>(a)
                               : gated_backward<Activation, BFloat16>(a);
  }
};

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
