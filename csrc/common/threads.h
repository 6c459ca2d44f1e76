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

// Calls body(member, members) on at most `threads` threads at once. OpenMP may grant fewer than
// asked for. body must not throw.
template <typename Body>
inline void on_team(int threads, const Body& body) {
#if defined(__SANITIZE_THREAD__)
  // ThreadSanitizer does not see how libgomp's threads wait for one another, but how these do.
  std::vector<std::thread> team;
  for (int member = 0; member < threads; ++member) {
    team.emplace_back([&body, member, threads] { body(member, threads); });
  }
  for (std::thread& thread : team) thread.join();
#else
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
#endif
}

// Calls body(begin, end, thread) on at most `threads` threads with contiguous shares of [0, tasks).
// body must not throw.
template <typename Body>
inline void parallel_for(int64_t tasks, int threads, const Body& body) {
  const int used = static_cast<int>(std::min<int64_t>(std::max(threads, 1), tasks));
  if (used <= 1) {
    if (tasks > 0) body(int64_t{0}, tasks, 0);
    return;
  }
  on_team(used, [&](int member, int members) {
    for (int share = member; share < used; share += members) {
      body(tasks * share / used, tasks * (share + 1) / used, share);
    }
  });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
