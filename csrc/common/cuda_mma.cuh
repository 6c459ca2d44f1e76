// Matrix products of a warp on tensor cores, float32 accumulators, and the loads that feed them.
//
// Fragments (PTX ISA, "Matrix Fragments for mma.m16n8k16" and "... mma.m16n8k8"), with g = lane / 4
// and t = lane % 4:
//   16-bit, A (16 x 16): a[0] = A[g][2t, 2t+1], a[1] = A[g+8][2t..], a[2] = A[g][2t+8..],
//                        a[3] = A[g+8][2t+8..]; the lower column in the low half
//   16-bit, B (16 x 8):  b[0] = B[2t, 2t+1][g], b[1] = B[2t+8, 2t+9][g]
//   tf32,   A (16 x 8):  a[0] = A[g][t], a[1] = A[g+8][t], a[2] = A[g][t+4], a[3] = A[g+8][t+4]
//   tf32,   B (8 x 8):   b[0] = B[t][g], b[1] = B[t+4][g]
//   C and D (16 x 8):    c[0, 1] = C[g][2t, 2t+1], c[2, 3] = C[g+8][2t, 2t+1]
#pragma once

#include "common/cuda_dtypes.cuh"

namespace fastmodel {

#if defined(__CUDACC__)

// c += A B for 16-bit elements: T is BFloat16 or Half.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]);

template <>
__device__ __forceinline__ void mma_m16n8k16<BFloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma_m16n8k16<Half>(float (&c)[4], const uint32_t (&a)[4],
                                                   const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// float32 rounded to tf32's 10 bits of mantissa, as the product takes it.
__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

// c += A B for tf32.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8
// (16 bytes, aligned) of matrix l / 8, and receives elements [g][2t, 2t+1] of matrix i in r[i].
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* shared_row) {
  const auto from = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}

// The same with every matrix transposed: r[i] is elements [2t, 2t+1][g].
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* shared_row) {
  const auto from = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}

#else

template <typename T>
void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const auto element = [](uint32_t pair, int which) {
    return to_float(T{static_cast<uint16_t>(pair >> (16 * which))});
  };
  const emulation::Fragments lanes(a, b);
  for (int i = 0; i < 4; ++i) {
    const int row = emulation::lane() / 4 + (i / 2) * 8, column = emulation::lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int t = k % 8 / 2;
      c[i] += element(lanes.a(row % 8 * 4 + t, row / 8 + k / 8 * 2), k % 2) *
              element(lanes.b(column * 4 + t, k / 8), k % 2);
    }
  }
}

inline uint32_t to_tf32(float value) {
  const uint32_t bits = bits_of(value);
  return value != value ? bits : (bits + 0x1000u) & ~0x1FFFu;
}

inline void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const auto element = [](uint32_t bits) { return float_of(bits & ~0x1FFFu); };
  const emulation::Fragments lanes(a, b);
  for (int i = 0; i < 4; ++i) {
    const int row = emulation::lane() / 4 + (i / 2) * 8, column = emulation::lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 8; ++k) {
      c[i] += element(lanes.a(row % 8 * 4 + k % 4, row / 8 + k / 4 * 2)) *
              element(lanes.b(column * 4 + k % 4, k / 4));
    }
  }
}

inline void load_matrices(uint32_t (&r)[4], const void* shared_row) {
  const emulation::MatrixRows rows(shared_row);
  const int g = emulation::lane() / 4, t = emulation::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    r[i] = rows.at(i, g, 2 * t) | static_cast<uint32_t>(rows.at(i, g, 2 * t + 1)) << 16;
  }
}

inline void load_matrices_transposed(uint32_t (&r)[4], const void* shared_row) {
  const emulation::MatrixRows rows(shared_row);
  const int g = emulation::lane() / 4, t = emulation::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    r[i] = rows.at(i, 2 * t, g) | static_cast<uint32_t>(rows.at(i, 2 * t + 1, g)) << 16;
  }
}

#endif

}  // namespace fastmodel
