// planted on the CPU: each fault as a kernel would have it, inside a parallel region.
#include <limits>
#include <memory>

#include "common/threads.h"
#include "common/vectors.h"
#include "planted/planted.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

void commit(const Planted& a, float* scratch, int64_t end, int share) {
  const Vec ones = broadcast(1.0f);
  switch (a.fault) {
    case Fault::kRead:  // the last vector hangs over the end by one lane
      return store(scratch, load(a.x + a.size - kLanes + 1));
    case Fault::kMaskedRead:
      return store(scratch, load_first(a.x + a.size - 1, 2));
    case Fault::kWrite:
      return store(a.x + a.size - kLanes + 1, ones);
    case Fault::kMaskedWrite:
      return store_first(a.x + a.size - 1, ones, 2);
    case Fault::kScratch:  // each share has kLanes of it
      if (share == a.threads - 1) store(scratch + 1, ones);
      return;
    case Fault::kOverflow:
      a.x[0] = static_cast<float>(std::numeric_limits<int64_t>::max() + end);
      return;
    case Fault::kRace:  // every share writes the first element
      a.x[0] += 1.0f;
      return;
    case Fault::kNone:
      return store(scratch, load_first(a.x, 1));
  }
}

}  // namespace

void planted_cpu(const Planted& a) {
  const std::unique_ptr<float[]> scratch(new float[a.threads * kLanes]);
  parallel_for(a.threads, a.threads, [&](int64_t, int64_t end, int share) {
    commit(a, scratch.get() + share * kLanes, end, share);
  });
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
