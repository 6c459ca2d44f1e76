// The rotary embeddings on the CPU, for any Pairs of two: Halves (i, i + width / 2) and Neighbours
// (i, i + 1).
//
// Bytes an element of float32: 4 read and 4 written, and the tables, which stay in cache; PyTorch's
// products, concatenation and sum move some 40. Three operations an element: memory is the floor.
//
// Rows are asked for in time. From memory they then come twice as fast, and no slower from L2 (2
// cores of an AMD EPYC, Zen 5, 12,288 and 40,960 rows of 64 float32; rope.json): the hardware's own
// prefetchers do not keep up with this walk, as they do with the norms'.
#pragma once

#include "common/huge_pages.h"
#include "common/prefetch.h"
#include "common/rotary.h"
#include "common/threads.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// A thread takes at least this many elements: some 10 us of work, against a few to start a team.
constexpr int64_t kTurnedPerThread = 32768;

struct Halves {
  template <bool kBackward, typename T>
  static FASTMODEL_INLINE void turn(const T* x, T* out, const float* cos, const float* sin,
                                    int64_t width) {
    const int64_t half = width / 2;
    for (int64_t i = 0; i < half; i += kLanes) {
      const int64_t j = i + half;
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, half - i));
      prefetch_ahead(x + i);
      prefetch_ahead(x + j);
      prefetch_ahead(out + i);
      prefetch_ahead(out + j);
      const Vec a = load_first(x + i, lanes), b = load_first(x + j, lanes);
      const Vec sin_a = load_first(sin + i, lanes), sin_b = load_first(sin + j, lanes);
      const Vec own_a = a * load_first(cos + i, lanes), own_b = b * load_first(cos + j, lanes);
      store_first(out + i, kBackward ? own_a + b * sin_b : own_a - b * sin_a, lanes);
      store_first(out + j, kBackward ? own_b - a * sin_a : own_b + a * sin_b, lanes);
    }
  }
};

struct Neighbours {
  template <bool kBackward, typename T>
  static FASTMODEL_INLINE void turn(const T* x, T* out, const float* cos, const float* sin,
                                    int64_t width) {
    Vec sign;  // of the sine: -1 for the first of a pair, 1 for the second
    FASTMODEL_UNROLL
    for (int lane = 0; lane < kLanes; ++lane) sign[lane] = lane % 2 == 0 ? -1.0f : 1.0f;
    for (int64_t i = 0; i < width; i += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, width - i));
      prefetch_ahead(x + i);
      prefetch_ahead(out + i);
      const Vec v = load_first(x + i, lanes);
      Vec s = load_first(sin + i, lanes) * sign;
      if constexpr (kBackward) s = swap_neighbours(s);
      store_first(out + i, v * load_first(cos + i, lanes) + swap_neighbours(v) * s, lanes);
    }
  }
};

template <typename Pairs, bool kBackward, typename T>
void rotary_turn(const RotaryTurn& a) {
  const T* x = static_cast<const T*>(a.x);
  T* out = static_cast<T*>(a.out);
  const int64_t size = a.batch * a.heads * a.length * a.width;
  advise_huge_pages(out, size * sizeof(T));
  const int64_t most = std::max<int64_t>(size / kTurnedPerThread, 1);
  const int used = static_cast<int>(std::min<int64_t>(a.threads, most));

  // Rows in the order in which they lie in memory: a task walks over all heads of a position, or
  // over all positions of a head.
  const bool is_position_outer = a.x_steps.position > a.x_steps.head;
  const int64_t outer = is_position_outer ? a.length : a.heads;
  const int64_t inner = is_position_outer ? a.heads : a.length;
  const auto outer_step = [&](const RotarySteps& steps) {
    return is_position_outer ? steps.position : steps.head;
  };
  const auto inner_step = [&](const RotarySteps& steps) {
    return is_position_outer ? steps.head : steps.position;
  };
  const RotarySteps tables{a.table_step, 0, a.width};
  parallel_for(a.batch * outer, used, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / outer, o = task % outer;
      const auto start = [&](const RotarySteps& steps) {
        return b * steps.batch + o * outer_step(steps);
      };
      const T* from = x + start(a.x_steps);
      T* to = out + start(a.out_steps);
      const float *cos = a.cos + start(tables), *sin = a.sin + start(tables);
      for (int64_t i = 0; i < inner; ++i) {
        Pairs::template turn<kBackward>(from, to, cos, sin, a.width);
        from += inner_step(a.x_steps);
        to += inner_step(a.out_steps);
        cos += inner_step(tables);
        sin += inner_step(tables);
      }
    }
  });
}

template <typename Pairs, typename T>
void rotary_turn_in(const RotaryTurn& a) {
  a.is_backward ? rotary_turn<Pairs, true, T>(a) : rotary_turn<Pairs, false, T>(a);
}

// In the direction and the element type that the arguments name.
template <typename Pairs>
void rotary_turn_any(const RotaryTurn& a) {
  a.dtype == DType::kFloat32 ? rotary_turn_in<Pairs, float>(a) : rotary_turn_in<Pairs, BFloat16>(a);
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
