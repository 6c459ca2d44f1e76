#include "common/workspace.h"

#include <algorithm>
#include <new>

namespace fastmodel {
namespace {

constexpr std::align_val_t kLine{64};

// An address sanitizer sees overruns only between blocks of their own.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kMostKeptBytes = 0;
#else
constexpr size_t kMostKeptBytes = size_t{64} << 20;
#endif

// A stack of scratch. It grows when nothing is taken, to the most that was ever wanted at once.
struct Kept {
  char* block = nullptr;
  size_t size = 0, used = 0, taken = 0, most = 0;

  ~Kept() { ::operator delete(block, kLine); }
};

thread_local Kept kept;

}  // namespace

Workspace::Workspace(int64_t floats)
    : bytes_((static_cast<size_t>(std::max<int64_t>(floats, 1)) * sizeof(float) + 63) / 64 * 64) {
  const size_t wanted = std::min(kept.most, kMostKeptBytes);
  if (kept.taken == 0 && kept.size < wanted) {
    ::operator delete(kept.block, kLine);
    kept.size = 0;
    kept.block = nullptr;
    kept.block = static_cast<char*>(::operator new(wanted, kLine));
    kept.size = wanted;
  }
  is_kept_ = kept.used + bytes_ <= kept.size;
  data_ = reinterpret_cast<float*>(is_kept_ ? kept.block + kept.used
                                            : static_cast<char*>(::operator new(bytes_, kLine)));
  if (is_kept_) kept.used += bytes_;
  kept.taken += bytes_;
  kept.most = std::max(kept.most, kept.taken);
}

Workspace::~Workspace() {
  if (is_kept_) {
    kept.used -= bytes_;
  } else {
    ::operator delete(data_, kLine);
  }
  kept.taken -= bytes_;
}

}  // namespace fastmodel
