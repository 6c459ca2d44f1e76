// Static partition of independent tasks over OpenMP threads: the same split for the same thread
// count, so that results are deterministic.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__SANITIZE_THREAD__)
#include <thread>
#include <vector>
#else
#include <omp.h>
#endif

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
#if defined(__SANITIZE_THREAD__)
  // ThreadSanitizer does not see how libgomp's threads wait for one another, but how these do.
  std::vector<std::thread> team;
  for (int share = 0; share < used; ++share) {
    team.emplace_back([&body, tasks, used, share] {
      body(tasks * share / used, tasks * (share + 1) / used, share);
    });
  }
  for (std::thread& member : team) member.join();
#else
#pragma omp parallel num_threads(used)
  {
    // OpenMP may grant fewer threads than asked for; each then takes several shares.
    const int granted = omp_get_num_threads();
    for (int share = omp_get_thread_num(); share < used; share += granted) {
      body(tasks * share / used, tasks * (share + 1) / used, share);
    }
  }
#endif
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
