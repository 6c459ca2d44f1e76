// conv_relu as one matrix product on tensor cores, channels innermost (implicit GEMM):
//   out[m][k] = relu(bias[k] + sum over e of A[m][e] * weight[k][e]),
//   m = (n, p, q), e = (r, s, c),
//   A[m][e] = x[n][p*u - pad + r*d][q*v - pad + s*d][c], or 0 beside the image.
//
// FLOPs: 2 M K E. Bytes: A's rows are read from x, once for each 64 output channels, mostly from
// the L2 (taps overlap); weight once for each 128 pixels; out is written once, ReLU included, where
// a library's product and a ReLU pass move it three times. A block of 4 warps makes 128 pixels x 64
// channels over slices of 64 bytes of e (32 elements of 16 bits, 16 of tf32), three of which are on
// their way by cp.async while one is multiplied; a warp 64 x 32: for each 16 elements of depth 6
// loads of fragments serve 16 products. float32 goes through tf32: inputs rounded to 10 bits of
// mantissa, sums in float32.
#include <type_traits>

#include "common/values.cuh"
#include "conv_relu/conv_relu_cuda.h"

namespace fastmodel {
namespace {

constexpr const char* kOp = "conv_relu";
constexpr int kThreads = 128;
constexpr int kTileM = 128, kTileK = 64;
constexpr int kWarpM = 64, kWarpK = 32;  // 2 x 2 warps
constexpr int kSliceBytes = 64;
constexpr int kChunkBytes = 16;
constexpr int kRowChunks = kSliceBytes / kChunkBytes;
constexpr int kStages = 4;
constexpr int kStageBytes = (kTileM + kTileK) * kSliceBytes;
constexpr int kRowsPerPass = kThreads / kRowChunks;  // rows that the block copies side by side

struct GemmShape {
  int64_t pixels;  // M
  int c, h, w, k, p, q, r, s;
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// Where chunk `chunk` of row `row` lies in a tile of rows of 64 bytes. Eight rows of one chunk,
// which one load of fragments reads, lie in eight different groups of four banks: two rows are 128
// bytes.
__device__ __forceinline__ int chunk_offset(int row, int chunk) {
  return row * kSliceBytes + (chunk ^ (row / 2 % kRowChunks)) * kChunkBytes;
}

// Copies this thread's chunks of the slices into a stage: one column of chunks, every
// kRowsPerPass-th row.
template <typename T>
class SliceLoader {
 public:
  static constexpr int kElements = kChunkBytes / sizeof(T);
  static constexpr int kRowsA = kTileM / kRowsPerPass, kRowsB = kTileK / kRowsPerPass;

  __device__ SliceLoader(const GemmShape& g, const T* x, const T* weight, int64_t first_pixel,
                         int first_k)
      : g_(g),
        x_(x),
        weight_(weight),
        row_(threadIdx.x / kRowChunks),
        chunk_(threadIdx.x % kRowChunks) {
    depth_ = g.r * g.s * g.c;
    element_ = chunk_ * kElements;
    first_k_ = first_k + row_;
#pragma unroll
    for (int i = 0; i < kRowsA; ++i) {
      const int64_t pixel = first_pixel + row_ + i * kRowsPerPass;
      const int64_t rest = pixel / g.q;
      is_pixel_[i] = pixel < g.pixels;
      image_[i] = x + (is_pixel_[i] ? rest / g.p : 0) * g.h * g.w * g.c;
      h_[i] = static_cast<int>(rest % g.p) * g.stride_h - g.pad_h;
      w_[i] = static_cast<int>(pixel % g.q) * g.stride_w - g.pad_w;
    }
  }

  // The next slice; beyond the depth, zeros.
  __device__ void load(unsigned char* stage) {
    const bool is_element = element_ < depth_;
    const int tap = is_element ? element_ / g_.c : 0, c = element_ - tap * g_.c;
    const int tap_h = tap / g_.s * g_.dilation_h, tap_w = tap % g_.s * g_.dilation_w;
#pragma unroll
    for (int i = 0; i < kRowsA; ++i) {
      const int h = h_[i] + tap_h, w = w_[i] + tap_w;
      const bool is_inside = is_element && is_pixel_[i] && h >= 0 && h < g_.h && w >= 0 && w < g_.w;
      const T* const from = is_inside ? image_[i] + (int64_t{h} * g_.w + w) * g_.c + c : x_;
      copy_async<kChunkBytes>(stage + chunk_offset(row_ + i * kRowsPerPass, chunk_), from,
                              is_inside);
    }
    unsigned char* const filters = stage + kTileM * kSliceBytes;
#pragma unroll
    for (int i = 0; i < kRowsB; ++i) {
      const int k = first_k_ + i * kRowsPerPass;
      const bool is_inside = is_element && k < g_.k;
      const T* const from = is_inside ? weight_ + int64_t{k} * depth_ + element_ : weight_;
      copy_async<kChunkBytes>(filters + chunk_offset(row_ + i * kRowsPerPass, chunk_), from,
                              is_inside);
    }
    element_ += kRowChunks * kElements;
  }

 private:
  const GemmShape& g_;
  const T* x_;
  const T* weight_;
  int row_, chunk_, depth_, element_, first_k_;
  const T* image_[kRowsA];
  int h_[kRowsA], w_[kRowsA];
  bool is_pixel_[kRowsA];
};

// The fragments of 16 rows x 32 bytes of depth, the `half`-th of a slice: what A takes of one
// product, of 16 elements of 16 bits or of 8 of tf32. Matrices: rows 0-7 and 8-15 of the first 16
// bytes, then of the second.
__device__ __forceinline__ void load_fragments(uint32_t (&r)[4], const unsigned char* tile,
                                               int first_row, int half) {
  const int lane = lane_index(), matrix = lane / 8;
  const int row = first_row + matrix % 2 * 8 + lane % 8;
  load_matrices(r, tile + chunk_offset(row, half * 2 + matrix / 2));
}

// sums += A B over 32 bytes of depth; a as load_fragments gives it for 16 pixels, b[0], b[1] for 8
// channels.
template <typename T>
__device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, float>) {
    // An 8 x 8 matrix of 16-bit elements is 8 x 4 of float32: lane (g, t) holds [g][t].
    const auto tf32 = [](uint32_t bits) { return to_tf32(float_of(bits)); };
    mma_m16n8k8_tf32(sums, {tf32(a[0]), tf32(a[1]), tf32(a[2]), tf32(a[3])},
                     {tf32(b[0]), tf32(b[1])});
  } else {
    mma_m16n8k16<T>(sums, a, b);
  }
}

// grid: (tiles of pixels, tiles of channels)
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gemm_kernel(GemmShape g, const T* x, const T* weight, const T* bias, T* out) {
  unsigned char* const stages = dynamic_shared<unsigned char>();
  const int warp = threadIdx.x / kWarp, lane = lane_index();
  const int warp_m = warp % 2 * kWarpM, warp_k = warp / 2 * kWarpK;
  const int64_t first_pixel = int64_t{blockIdx.x} * kTileM;
  const int first_k = blockIdx.y * kTileK;

  SliceLoader<T> loader(g, x, weight, first_pixel, first_k);
  constexpr int kSliceElements = kSliceBytes / sizeof(T);
  const int slices = (g.r * g.s * g.c + kSliceElements - 1) / kSliceElements;
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < slices) loader.load(stages + stage * kStageBytes);
    copy_async_commit();  // an empty group keeps the count
  }

  float sums[kWarpM / 16][kWarpK / 8][4] = {};
  for (int slice = 0; slice < slices; ++slice) {
    copy_async_wait<kStages - 2>();
    sync_block();  // the slice is there, and the stage before it is free
    const int next = slice + kStages - 1;
    if (next < slices) loader.load(stages + next % kStages * kStageBytes);
    copy_async_commit();
    const unsigned char* const pixels = stages + slice % kStages * kStageBytes;
    const unsigned char* const filters = pixels + kTileM * kSliceBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[kWarpK / 16][4];
#pragma unroll
      for (int j = 0; j < kWarpK / 16; ++j) load_fragments(b[j], filters, warp_k + j * 16, half);
#pragma unroll
      for (int i = 0; i < kWarpM / 16; ++i) {
        uint32_t a[4];
        load_fragments(a, pixels, warp_m + i * 16, half);
#pragma unroll
        for (int j = 0; j < kWarpK / 8; ++j) {
          // 8 channels: the same rows of both matrices of depth.
          multiply<T>(sums[i][j], a, {b[j / 2][j % 2], b[j / 2][j % 2 + 2]});
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kWarpM / 16; ++i) {
#pragma unroll
    for (int j = 0; j < kWarpK / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t pixel = first_pixel + warp_m + i * 16 + lane / 4 + e / 2 * 8;
        const int k = first_k + warp_k + j * 8 + lane % 4 * 2 + e % 2;
        if (pixel >= g.pixels || k >= g.k) continue;
        const float b = bias == nullptr ? 0.0f : to_float(bias[k]);
        out[pixel * g.k + k] = rounded<T>(relu(sums[i][j][e] + b));
      }
    }
  }
}

}  // namespace

void conv_relu_gemm_forward_cuda(const ConvReluForwardCuda& a) {
  const ConvShape& s = a.shape;
  const auto i = [](int64_t value) { return static_cast<int>(value); };
  const GemmShape g{s.n * s.p * s.q, i(s.c),     i(s.h),     i(s.w),          i(s.k),
                    i(s.p),          i(s.q),     i(s.r),     i(s.s),          i(s.stride_h),
                    i(s.stride_w),   i(s.pad_h), i(s.pad_w), i(s.dilation_h), i(s.dilation_w)};
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    const dim3 grid(static_cast<unsigned>(ceil_div(g.pixels, kTileM)),
                    static_cast<unsigned>(ceil_div(g.k, kTileK)));
    launch(kOp, gemm_kernel<T>, grid, kThreads, kStages * kStageBytes, a.stream, g,
           static_cast<const T*>(a.x), static_cast<const T*>(a.weight),
           static_cast<const T*>(a.bias), static_cast<T*>(a.out));
  });
}

}  // namespace fastmodel
