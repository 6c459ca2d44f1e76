// probe on the GPU: see probe.h. Bytes and time do not matter here.
#include "common/cuda.cuh"
#include "probe/probe.h"

namespace fastmodel {
namespace {

constexpr int kSumThreads = 96;

__global__ void block_sum_kernel(const float* x, float* sums) {
  const float sum = block_sum<kSumThreads>(x[blockIdx.x * kSumThreads + threadIdx.x]);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void warp_kernel(const int* x, int* out) {
  const int lane = lane_index(), value = x[lane];
  out[lane] = shuffle(value, 5);
  out[32 + lane] = shuffle_xor(value, 9);
  out[64 + lane] = shuffle_down(value, 3);
  out[96 + lane] = shuffle_up(value, 3);
  out[128 + lane] = count_bits(ballot(value % 2 != 0));
  out[160 + lane] = warp_max(value);
}

__device__ void store_product(const float (&tile)[4], float* c) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = tile[i];
}

template <typename T>
__global__ void product_kernel(const T* a, const T* b, float* c) {
  FASTMODEL_SHARED(T, a_tile, 16 * 16);
  FASTMODEL_SHARED(T, b_tile, 32 * 8);  // its lower half pads the load of four matrices
  const int lane = lane_index();
  for (int i = lane; i < 16 * 16; i += kWarp) a_tile[i] = a[i];
  for (int i = lane; i < 32 * 8; i += kWarp) b_tile[i] = b[i % (16 * 8)];
  sync_warp();
  uint32_t a_regs[4], b_regs[4];
  const int row = lane % 8 + lane / 8 % 2 * 8, column = lane / 16 * 8;
  load_matrices(a_regs, a_tile + row * 16 + column);
  load_matrices_transposed(b_regs, b_tile + lane * 8);
  float tile[4] = {};
  mma_m16n8k16<T>(tile, a_regs, {b_regs[0], b_regs[1]});
  store_product(tile, c);
}

__global__ void product_tf32_kernel(const float* a, const float* b, float* c) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  const uint32_t a_regs[4] = {to_tf32(a[g * 8 + t]), to_tf32(a[(g + 8) * 8 + t]),
                              to_tf32(a[g * 8 + t + 4]), to_tf32(a[(g + 8) * 8 + t + 4])};
  const uint32_t b_regs[2] = {to_tf32(b[t * 8 + g]), to_tf32(b[(t + 4) * 8 + g])};
  float tile[4] = {};
  mma_m16n8k8_tf32(tile, a_regs, b_regs);
  store_product(tile, c);
}

__global__ void reverse_kernel(const float* x, float* y, int count, int inside) {
  float* const tile = dynamic_shared<float>();
  const int i = threadIdx.x;
  copy_async<4>(tile + i, x + i, i < inside);
  copy_async_commit();
  copy_async_wait<0>();
  sync_block();
  y[i] = tile[count - 1 - i];
}

template <typename T>
__global__ void round_kernel(const float* x, float* y) {
  const int64_t at = (int64_t{blockIdx.x} * kWarp + threadIdx.x) * Pack<float>::kCount;
  Pack<float> pack = load_pack_streaming(x + at);
  for (int i = 0; i < Pack<float>::kCount; ++i) pack[i] = to_float(rounded<T>(pack[i]));
  store_pack_streaming(y + at, pack);
}

}  // namespace

void probe_block_sum_cuda(const float* x, int64_t blocks, float* sums, Stream stream) {
  launch("probe", block_sum_kernel, static_cast<unsigned>(blocks), kSumThreads, 0, stream, x, sums);
}

void probe_warp_cuda(const int* x, int* out, Stream stream) {
  launch("probe", warp_kernel, 1, kWarp, 0, stream, x, out);
}

void probe_product_cuda(const void* a, const void* b, float* c, DType dtype, Stream stream) {
  const auto typed = [&](auto kernel, auto* as, auto* bs) {
    launch("probe", kernel, 1, kWarp, 0, stream, as, bs, c);
  };
  if (dtype == DType::kFloat32) {
    typed(product_tf32_kernel, static_cast<const float*>(a), static_cast<const float*>(b));
  } else if (dtype == DType::kBFloat16) {
    typed(product_kernel<BFloat16>, static_cast<const BFloat16*>(a),
          static_cast<const BFloat16*>(b));
  } else {
    typed(product_kernel<Half>, static_cast<const Half*>(a), static_cast<const Half*>(b));
  }
}

void probe_reverse_cuda(const float* x, float* y, int count, int inside, Stream stream) {
  launch("probe", reverse_kernel, 1, count, count * sizeof(float), stream, x, y, count, inside);
}

void probe_round_cuda(const float* x, float* y, int64_t count, DType dtype, Stream stream) {
  const auto blocks = static_cast<unsigned>(count / (kWarp * Pack<float>::kCount));
  const auto kernel = dtype == DType::kBFloat16 ? round_kernel<BFloat16> : round_kernel<Half>;
  launch("probe", kernel, blocks, kWarp, 0, stream, x, y);
}

#if !defined(__CUDACC__)
namespace {

void fault_kernel(CudaFault fault, const float* x, float* y) {
  FASTMODEL_SHARED(float, tile, 256);
  const int i = threadIdx.x;
  if (fault == CudaFault::kMissingWait) {
    copy_async<4>(tile + i, x + i);
    copy_async_commit();
  } else {
    tile[i] = x[i];
  }
  switch (fault) {
    case CudaFault::kDivergentBarrier:
      i % 2 == 0 ? sync_warp() : sync_block();
      break;
    case CudaFault::kDivergentCollectives:
      i % 2 == 0 ? sync_warp() : static_cast<void>(ballot(true));
      break;
    case CudaFault::kPartialWarp:
      if (i < 16) return;
      warp_sum(1.0f);
      break;
    case CudaFault::kSharedIndex:
      y[i] = tile[i + 1];
      break;
    case CudaFault::kSharedOverrun:
      *(static_cast<float*>(tile) + i + 1) = 1.0f;
      break;
    case CudaFault::kMisaligned:
      y[i] = load_pack(x + 1)[0];
      break;
    default:
      break;
  }
  if (fault == CudaFault::kMissingBarrierBehind) {
    y[i] = tile[0];
    return;
  }
  if (fault != CudaFault::kMissingBarrier) sync_block();
  y[i] = tile[255 - i];
}

}  // namespace

void probe_fault_cuda(CudaFault fault, const float* x, float* y, int blocks, Stream stream) {
  launch("probe", fault_kernel, blocks, 256, 0, stream, fault, x, y);
}
#endif

}  // namespace fastmodel
