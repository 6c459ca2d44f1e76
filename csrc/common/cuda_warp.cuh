// What the threads of a warp, and of a block, tell one another. Every lane of the warp takes part.
#pragma once

#include <cstdint>

#include "common/cuda_shared.cuh"

namespace fastmodel {

constexpr int kWarp = 32;

#if defined(__CUDACC__)

constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

__device__ __forceinline__ int lane_index() {
  int lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

__device__ __forceinline__ void sync_warp() { __syncwarp(); }

// The value of lane `source`.
template <typename T>
__device__ __forceinline__ T shuffle(T value, int source) {
  return __shfl_sync(kAllLanes, value, source);
}

// The value of lane (own ^ mask).
template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}

// The value of lane (own + distance); the last lanes keep their own.
template <typename T>
__device__ __forceinline__ T shuffle_down(T value, int distance) {
  return __shfl_down_sync(kAllLanes, value, distance);
}

// The value of lane (own - distance); the first lanes keep their own.
template <typename T>
__device__ __forceinline__ T shuffle_up(T value, int distance) {
  return __shfl_up_sync(kAllLanes, value, distance);
}

// Bit l: lane l's predicate.
__device__ __forceinline__ uint32_t ballot(bool predicate) {
  return __ballot_sync(kAllLanes, predicate);
}

__device__ __forceinline__ int count_bits(uint32_t bits) { return __popc(bits); }

#else

inline int lane_index() { return emulation::lane(); }

inline void sync_warp() { emulation::exchange(emulation::Collective::kSyncWarp, nullptr, 0); }

template <typename T>
T shuffle(T value, int source) {
  using emulation::Collective;
  const emulation::Slot* const slots = emulation::exchange(Collective::kShuffle, &value, sizeof(T));
  return slots[source & (kWarp - 1)].as<T>();
}

template <typename T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, lane_index() ^ mask);
}

template <typename T>
T shuffle_down(T value, int distance) {
  const int source = lane_index() + distance;
  return shuffle(value, source < kWarp ? source : lane_index());
}

template <typename T>
T shuffle_up(T value, int distance) {
  const int source = lane_index() - distance;
  return shuffle(value, source >= 0 ? source : lane_index());
}

inline uint32_t ballot(bool predicate) {
  using emulation::Collective;
  const emulation::Slot* const slots = emulation::exchange(Collective::kBallot, &predicate, 1);
  uint32_t bits = 0;
  for (int l = 0; l < kWarp; ++l) bits |= uint32_t{slots[l].as<bool>()} << l;
  return bits;
}

inline int count_bits(uint32_t bits) { return __builtin_popcount(bits); }

#endif

// combine(...) over the warp, the same bits in every lane where combine commutes.
template <typename T, typename Combine>
__device__ __forceinline__ T warp_reduce(T value, const Combine& combine) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}

struct Sum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

// NaN in either wins.
struct Max {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce(value, Sum());
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_reduce(value, Max());
}

// combine(...) over a one-dimensional block of kThreads, in every thread, in a fixed order.
template <int kThreads, typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, const Combine& combine) {
  static_assert(kThreads % kWarp == 0, "whole warps");
  constexpr int kWarps = kThreads / kWarp;
  value = warp_reduce(value, combine);
  if constexpr (kWarps == 1) {
    return value;
  } else {
    FASTMODEL_SHARED(T, partial, kWarps);
    if (lane_index() == 0) partial[threadIdx.x / kWarp] = value;
    sync_block();
    T total = partial[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) total = combine(total, partial[w]);
    sync_block();  // the next call writes `partial` anew
    return total;
  }
}

template <int kThreads, typename T>
__device__ __forceinline__ T block_sum(T value) {
  return block_reduce<kThreads>(value, Sum());
}

template <int kThreads, typename T>
__device__ __forceinline__ T block_max(T value) {
  return block_reduce<kThreads>(value, Max());
}

}  // namespace fastmodel
