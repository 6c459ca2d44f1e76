// CUDA's model of execution on the CPU, for tests: included by common/cuda_platform.cuh alone.
//
// Blocks run one after another, a block's threads as fibers that take turns at barriers and warp
// collectives. So a block must not wait for another block. Every second block lets its threads go
// in descending order, so that a missing barrier shows. Fails the launch with what went wrong: a
// barrier or collective that some thread never reaches, lanes in different collectives, misaligned
// packs, shared memory written out of bounds. Shared memory starts as NaN.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

// CUDA's words, as nvcc has them.
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace fastmodel::emulation {

constexpr int kWarpLanes = 32;

// What one lane hands to the others.
struct alignas(16) Slot {
  unsigned char bytes[32];

  template <typename T>
  T as() const {
    static_assert(sizeof(T) <= sizeof(bytes), "a lane hands over 32 bytes at most");
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
  }
};

enum class Collective { kNone, kSyncWarp, kShuffle, kBallot, kMatrixProduct, kMatrixLoad };

// Runs body() for every thread of every block. Throws std::runtime_error, which begins with the op.
void run(const char* op, dim3 grid, dim3 block, size_t shared_bytes,
         const std::function<void()>& body);

// What a kernel did wrong: ends the launch.
[[noreturn]] void fail(const std::string& what);

int lane();
void sync_block();

// Hands value's bytes to the warp; returns what each of the 32 lanes handed over.
const Slot* exchange(Collective collective, const void* value, size_t bytes);

void copy_async(void* shared, const void* global, int bytes, bool is_inside);
void copy_async_commit();
void copy_async_wait(int pending);

void check_alignment(const void* p, size_t bytes);
void check_index(size_t index, size_t count);

// Where an array of the kernel's lies in the running block.
struct SharedSlot {
  uint64_t block = 0;
  void* data = nullptr;
};

void* shared_array(SharedSlot& slot, size_t bytes);
void* dynamic_shared();

// As the plain array that it stands for, and checks the index.
template <typename T>
class SharedArray {
 public:
  SharedArray(SharedSlot& slot, size_t count)
      : data_(static_cast<T*>(shared_array(slot, count * sizeof(T)))), count_(count) {}

  template <typename Index>
  T& operator[](Index index) const {
    check_index(static_cast<size_t>(index), count_);
    return data_[index];
  }
  operator T*() const { return data_; }

 private:
  T* data_;
  size_t count_;
};

// The operands of a matrix product, of every lane.
class Fragments {
 public:
  Fragments(const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const uint32_t own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    slots_ = exchange(Collective::kMatrixProduct, own, sizeof(own));
  }
  uint32_t a(int lane, int i) const { return slots_[lane].as<Registers>().values[i]; }
  uint32_t b(int lane, int i) const { return slots_[lane].as<Registers>().values[4 + i]; }

 private:
  struct Registers {
    uint32_t values[6];
  };
  const Slot* slots_;
};

// Four 8 x 8 matrices of 16-bit elements, whose rows' addresses the lanes give.
class MatrixRows {
 public:
  explicit MatrixRows(const void* row) {
    check_alignment(row, 16);
    slots_ = exchange(Collective::kMatrixLoad, &row, sizeof(row));
  }
  uint16_t at(int matrix, int row, int column) const {
    return slots_[matrix * 8 + row].as<const uint16_t*>()[column];
  }

 private:
  const Slot* slots_;
};

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);

}  // namespace fastmodel::emulation
