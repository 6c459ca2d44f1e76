// ceilings on the CPU: multiply-adds on registers alone.
//
// 2 FMA ports x 4 cycles of latency want 8 accumulators in flight; 12 leave room for both factors
// in 16 registers. No byte moves but one float a thread.
#include "ceilings/ceilings.h"
#include "common/threads.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

constexpr int kAccumulators = 12;

}  // namespace

void fma_loop_cpu(const FmaLoop& a) {
  parallel_for(a.threads, a.threads, [&](int64_t begin, int64_t end, int) {
    const Vec half = broadcast(0.5f), one = broadcast(1.0f);
    for (int64_t share = begin; share < end; ++share) {
      Vec acc[kAccumulators];
      FASTMODEL_UNROLL
      for (int i = 0; i < kAccumulators; ++i) acc[i] = broadcast(static_cast<float>(i));
      for (int64_t iteration = 0; iteration < a.iterations; ++iteration) {
        FASTMODEL_UNROLL
        for (int i = 0; i < kAccumulators; ++i) acc[i] = acc[i] * half + one;
      }
      Vec total = {};
      FASTMODEL_UNROLL
      for (int i = 0; i < kAccumulators; ++i) total += acc[i];
      a.out[share] = sum(total);
    }
  });
  *a.flops = 2 * kAccumulators * kLanes * a.iterations * a.threads;
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
