// Scratch memory of a kernel call. Fresh memory from the system costs a page fault for each 4 KiB,
// more than many a kernel takes; a thread therefore keeps what its last calls needed, up to a
// bound.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastmodel {

// Uninitialised floats on a cache line, given back in the reverse order of their taking. To be made
// by the thread that calls the kernel, outside of parallel regions.
class Workspace {
 public:
  explicit Workspace(int64_t floats);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  float* get() const { return data_; }

 private:
  float* data_;
  size_t bytes_;
  bool is_kept_;  // within the thread's kept block, or a block of its own
};

// `floats` filled up to whole cache lines.
inline int64_t whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace fastmodel
