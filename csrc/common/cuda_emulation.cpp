// The fibers of an emulated block, their barriers and shared memory.
#include "common/cuda_emulation.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

namespace fastmodel::emulation {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxSharedBytes = 227 * 1024;
constexpr size_t kMaxStaticSharedBytes = 48 * 1024;
constexpr size_t kGuardBytes = 128;
constexpr unsigned char kGuard = 0xA5;

// Bytes that no one has written: NaN in every floating type.
constexpr unsigned char kPoison = 0xFF;

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool is_inside;
};

struct Warp {
  Slot slots[2][kWarpLanes];  // by turns: a lane may be one exchange ahead of those that still read
  unsigned lanes = 0, arrived = 0;
  uint64_t generation = 0;
  Collective collective = Collective::kNone;
};

struct Fiber {
  ucontext_t start;
  jmp_buf at;
  char* stack = nullptr;
  bool is_started = false;
  uint3 index{};
  int lane = 0;
  Warp* warp = nullptr;
  Fiber* next = nullptr;
  Fiber* previous = nullptr;
  std::deque<std::vector<Copy>> groups;  // of copies that were committed
  std::vector<Copy> uncommitted;
};

// Static arrays first, then what the launch asked for; guard bytes behind each.
class SharedMemory {
 public:
  void start_block(size_t dynamic_bytes) {
    ++block_;
    used_ = static_bytes_ = 0;
    ends_.clear();
    dynamic_bytes_ = dynamic_bytes;
    dynamic_ = allocate(dynamic_bytes);
  }

  void* array(SharedSlot& slot, size_t bytes) {
    if (slot.block != block_) {
      static_bytes_ += bytes;
      if (static_bytes_ > kMaxStaticSharedBytes) fail("more than 48 KiB of static shared memory");
      if (static_bytes_ + dynamic_bytes_ > kMaxSharedBytes) fail("too much shared memory");
      slot = {block_, allocate(bytes)};
    }
    return slot.data;
  }

  void* dynamic() const { return dynamic_; }

  void check_guards() const {
    for (const size_t end : ends_) {
      for (size_t i = 0; i < kGuardBytes; ++i) {
        if (memory_[end + i] != kGuard) throw std::runtime_error("wrote beyond shared memory");
      }
    }
  }

 private:
  void* allocate(size_t bytes) {
    const size_t begin = (used_ + 127) / 128 * 128;
    if (begin + bytes + kGuardBytes > sizeof(memory_)) fail("too many shared arrays");
    std::memset(memory_ + begin, kPoison, bytes);
    std::memset(memory_ + begin + bytes, kGuard, kGuardBytes);
    ends_.push_back(begin + bytes);
    used_ = begin + bytes + kGuardBytes;
    return memory_ + begin;
  }

  alignas(128) unsigned char memory_[2 * kMaxSharedBytes];
  std::vector<size_t> ends_;
  size_t used_ = 0, static_bytes_ = 0, dynamic_bytes_ = 0;
  void* dynamic_ = nullptr;
  uint64_t block_ = 0;
};

std::mutex one_launch;
SharedMemory shared;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
Fiber* current = nullptr;
jmp_buf launcher;
std::exception_ptr failure;
const std::function<void()>* job = nullptr;

unsigned alive = 0, arrived = 0;
uint64_t generation = 0;
// Turns that were taken since a thread last arrived somewhere or returned.
unsigned idle_turns = 0;

void enter();

[[noreturn]] void go(Fiber& fiber) {
  current = &fiber;
  threadIdx = fiber.index;
  if (fiber.is_started) _longjmp(fiber.at, 1);
  fiber.is_started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack;
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, enter, 0);
  setcontext(&fiber.start);
  std::terminate();
}

// Lets `to` run until this fiber's turn comes again.
__attribute__((noinline)) void take_turns(Fiber& to) {
  Fiber* const self = current;
  if (&to == self) return;
  if (_setjmp(self->at) == 0) go(to);
}

void release_block() {
  arrived = 0;
  ++generation;
  idle_turns = 0;
}

void wait_for(const uint64_t& counter, uint64_t before, const char* where) {
  while (counter == before) {
    if (++idle_turns > 4 * alive + 4) {
      fail(std::string("some threads never come to ") + where + " where others wait");
    }
    take_turns(*current->next);
  }
}

// A thread has returned: those that wait at the block's barrier wait for one less.
__attribute__((noinline)) void leave() {
  Fiber* const self = current;
  --alive;
  --self->warp->lanes;
  idle_turns = 0;
  if (self->warp->arrived > 0) fail("a lane returned while its warp waits in a collective");
  if (alive > 0 && arrived == alive) release_block();
  self->previous->next = self->next;
  self->next->previous = self->previous;
  if (_setjmp(self->at) == 0) {
    if (alive > 0) go(*self->next);
    _longjmp(launcher, 1);
  }
}

void enter() {
  for (;;) {
    try {
      (*job)();
      copy_async_commit();
      copy_async_wait(0);
      leave();
    } catch (...) {
      failure = std::current_exception();
    }
    if (failure) _longjmp(launcher, 1);
  }
}

void make_fibers(unsigned count) {
  while (fibers.size() < count) {
    void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw std::runtime_error("no memory for a thread's stack");
    fibers.push_back(std::make_unique<Fiber>());
    fibers.back()->stack = static_cast<char*>(stack);
  }
}

void run_block(uint3 index, dim3 size, size_t shared_bytes, bool is_descending) {
  const unsigned count = size.x * size.y * size.z;
  blockIdx = index;
  shared.start_block(shared_bytes);
  warps.assign((count + kWarpLanes - 1) / kWarpLanes, Warp());
  alive = count;
  arrived = idle_turns = 0;
  for (unsigned i = 0; i < count; ++i) {
    Fiber& fiber = *fibers[i];
    fiber.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    fiber.lane = i % kWarpLanes;
    fiber.warp = &warps[i / kWarpLanes];
    ++fiber.warp->lanes;
    fiber.next = fibers[(i + 1) % count].get();
    fiber.previous = fibers[(i + count - 1) % count].get();
    if (is_descending) std::swap(fiber.next, fiber.previous);
  }
  if (_setjmp(launcher) == 0) go(*fibers[is_descending ? count - 1 : 0]);
  if (failure) {
    for (const auto& fiber : fibers) {
      fiber->is_started = false;  // they hang where they were: start them anew
      fiber->groups.clear();
      fiber->uncommitted.clear();
    }
    std::rethrow_exception(std::exchange(failure, nullptr));
  }
  shared.check_guards();
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64) {
    throw std::runtime_error("a block has 1 to 1024 threads");
  }
  if (grid.y > 65535 || grid.z > 65535 || grid.x > 0x7FFFFFFFu) {
    throw std::runtime_error("the grid is too large");
  }
  if (shared_bytes > kMaxSharedBytes) throw std::runtime_error("too much shared memory");
  make_fibers(static_cast<unsigned>(threads));
  gridDim = grid;
  blockDim = block;
  uint64_t count = 0;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        run_block({x, y, z}, block, shared_bytes, count++ % 2 == 1);
      }
    }
  }
}

}  // namespace

void run(const char* op, dim3 grid, dim3 block, size_t shared_bytes,
         const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(one_launch);
  job = &body;
  try {
    run_grid(grid, block, shared_bytes);
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string(op) + ": running a kernel failed: " + error.what());
  }
}

void fail(const std::string& what) {
  const auto place = [](const uint3& at) {
    return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) +
           ")";
  };
  throw std::runtime_error(what + "; thread " + place(threadIdx) + " of block " + place(blockIdx));
}

int lane() { return current->lane; }

void sync_block() {
  const uint64_t before = generation;
  idle_turns = 0;
  if (++arrived == alive) {
    release_block();
  } else {
    wait_for(generation, before, "the block's barrier");
  }
}

const Slot* exchange(Collective collective, const void* value, size_t bytes) {
  Warp& warp = *current->warp;
  const uint64_t before = warp.generation;
  if (warp.lanes != kWarpLanes) fail("a warp's collective wants all 32 lanes");
  if (warp.arrived > 0 && warp.collective != collective) {
    fail("lanes of one warp are in different collectives");
  }
  warp.collective = collective;
  Slot(&slots)[kWarpLanes] = warp.slots[before % 2];
  if (bytes > 0) std::memcpy(slots[current->lane].bytes, value, bytes);
  idle_turns = 0;
  if (++warp.arrived == warp.lanes) {
    warp.arrived = 0;
    ++warp.generation;
  } else {
    wait_for(warp.generation, before, "the warp's collective");
  }
  return slots;
}

void copy_async(void* to, const void* from, int bytes, bool is_inside) {
  check_alignment(to, bytes);
  check_alignment(from, bytes);
  current->uncommitted.push_back({to, from, bytes, is_inside});
}

void copy_async_commit() {
  current->groups.push_back(std::move(current->uncommitted));
  current->uncommitted.clear();
}

void copy_async_wait(int pending) {
  auto& groups = current->groups;
  for (; groups.size() > static_cast<size_t>(pending); groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      if (copy.is_inside) {
        std::memcpy(copy.to, copy.from, copy.bytes);
      } else {
        std::memset(copy.to, 0, copy.bytes);
      }
    }
  }
}

void check_alignment(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) {
    fail("an address is no multiple of " + std::to_string(bytes));
  }
}

void check_index(size_t index, size_t count) {
  if (index >= count) {
    fail("index " + std::to_string(static_cast<int64_t>(index)) + " of a shared array of " +
         std::to_string(count));
  }
}

void* shared_array(SharedSlot& slot, size_t bytes) { return shared.array(slot, bytes); }

void* dynamic_shared() { return shared.dynamic(); }

float half_to_float(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1F, mantissa = bits & 0x3FF;
  float value;
  if (exponent == 0x1F) {
    value = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    value = std::ldexp(static_cast<float>(mantissa + 0x400), exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

uint16_t float_to_half(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (value != value) return 0x7FFF;
  if (size >= 65520.0f) return sign | 0x7C00;  // rounds to what float16 does not hold
  if (size < 0x1p-14f) {                       // below the normal ones: steps of 2^-24
    return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24)));
  }
  const int exponent = std::ilogb(size);
  const int mantissa = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return sign | static_cast<uint16_t>((exponent + 14) * 0x400 + mantissa);
}

}  // namespace fastmodel::emulation
