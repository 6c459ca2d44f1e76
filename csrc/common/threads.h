// Static partition of independent tasks over OpenMP threads: the same split for the same thread
// count, so that results are deterministic.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Calls body(begin, end, thread) on at most `threads` threads with contiguous shares of [0, tasks).
// body must not throw.
template <typename Body>
inline void parallel_for(int64_t tasks, int threads, const Body& body) {
  const int used = static_cast<int>(std::min<int64_t>(std::max(threads, 1), tasks));
  if (used <= 1) {
    if (tasks > 0) body(int64_t{0}, tasks, 0);
    return;
  }
#pragma omp parallel num_threads(used)
  {
    // OpenMP may grant fewer threads than asked for; each then takes several shares.
    const int granted = omp_get_num_threads();
    for (int share = omp_get_thread_num(); share < used; share += granted) {
      body(tasks * share / used, tasks * (share + 1) / used, share);
    }
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
