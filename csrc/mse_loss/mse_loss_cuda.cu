// mse_loss on a GPU: one pass forward, one pass backward.
//
// Bytes an element of float32 (half of it in 16 bits): forward reads 8 (and writes 4 without a
// reduction), backward reads 8 and writes 4 a gradient. Three FLOPs each, so memory is the floor:
// 2^27 elements forward are 1.07 GB.
//
// A sum goes by threads in float32, each over its own packs, and from there in float64: over the
// block, then over blocks by one block. The order is fixed, so the result is deterministic.
#include "common/gpu_elements.cuh"
#include "mse_loss/mse_loss_cuda.h"

namespace fastmodel {
namespace {

constexpr int kThreads = 256;

// Packs that a thread adds up in float32 before it goes on in float64.
constexpr int kPacksInFloat = 32;

template <typename T>
__global__ __launch_bounds__(kThreads) void mse_loss_terms(const T* x, const T* target, T* loss,
                                                           int64_t n) {
  for_each_pack<T>(n, head_of(n, x, target, loss), grid_thread(), grid_threads(),
                   [&](auto width, int64_t i) {
                     auto d = load_floats(width, x + i);
                     const auto t = load_floats(width, target + i);
#pragma unroll
                     for (int k = 0; k < width.kCount; ++k) d[k] = (d[k] - t[k]) * (d[k] - t[k]);
                     store_floats(loss + i, d);
                   });
}

template <typename T>
__global__ __launch_bounds__(kThreads) void mse_loss_partial_sums(const T* x, const T* target,
                                                                  double* partials, int64_t n) {
  float sum = 0.0f;
  double total = 0.0;
  int packs = 0;
  for_each_pack<T>(n, head_of(n, x, target), grid_thread(), grid_threads(),
                   [&](auto width, int64_t i) {
                     const auto d = load_floats(width, x + i);
                     const auto t = load_floats(width, target + i);
#pragma unroll
                     for (int k = 0; k < width.kCount; ++k) sum += (d[k] - t[k]) * (d[k] - t[k]);
                     if (++packs == kPacksInFloat) {
                       total += sum;
                       sum = 0.0f;
                       packs = 0;
                     }
                   });
  total = block_sum<kThreads>(total + sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

template <typename T>
__global__ __launch_bounds__(kThreads) void mse_loss_total(const double* partials, int64_t count,
                                                           double divisor, T* loss) {
  double total = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) total += partials[i];
  total = block_sum<kThreads>(total);
  // 0 / 0 is NaN: the mean over no elements, as PyTorch has it.
  if (threadIdx.x == 0) from_float(static_cast<float>(total / divisor), loss);
}

// grad_x = s (x - target) and grad_target = -grad_x; s is 2 grad[i], or factor * grad[0].
template <typename T>
__global__ __launch_bounds__(kThreads) void mse_loss_gradients(const T* x, const T* target,
                                                               const T* grad, bool is_per_element,
                                                               float factor, T* grad_x,
                                                               T* grad_target, int64_t n) {
  const float scale = is_per_element ? factor : factor * to_float(*grad);
  const int64_t head = is_per_element ? head_of(n, x, target, grad, grad_x, grad_target)
                                      : head_of(n, x, target, grad_x, grad_target);
  for_each_pack<T>(n, head, grid_thread(), grid_threads(), [&](auto width, int64_t i) {
    auto d = load_floats(width, x + i);
    const auto t = load_floats(width, target + i);
#pragma unroll
    for (int k = 0; k < width.kCount; ++k) d[k] = (d[k] - t[k]) * scale;
    if (is_per_element) {
      const auto g = load_floats(width, grad + i);
#pragma unroll
      for (int k = 0; k < width.kCount; ++k) d[k] *= g[k];
    }
    if (grad_x != nullptr) store_floats(grad_x + i, d);
    if (grad_target != nullptr) {
#pragma unroll
      for (int k = 0; k < width.kCount; ++k) d[k] = -d[k];
      store_floats(grad_target + i, d);
    }
  });
}

}  // namespace

void mse_loss_forward_cuda(const MseLossForwardCuda& a, Stream stream) {
  const MseLossProblem& p = a.problem;
  with_element_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    const T* x = static_cast<const T*>(p.x);
    const T* target = static_cast<const T*>(p.target);
    T* loss = static_cast<T*>(a.loss);
    unsigned blocks = elementwise_blocks<T>("mse_loss", p.size, kThreads, stream);
    if (p.reduction == Reduction::kNone) {
      launch("mse_loss", mse_loss_terms<T>, blocks, kThreads, 0, stream, x, target, loss, p.size);
      return;
    }
    if (blocks > kMseLossPartials) blocks = kMseLossPartials;
    launch("mse_loss", mse_loss_partial_sums<T>, blocks, kThreads, 0, stream, x, target, a.partials,
           p.size);
    const double divisor = p.reduction == Reduction::kMean ? static_cast<double>(p.size) : 1.0;
    launch("mse_loss", mse_loss_total<T>, 1, kThreads, 0, stream, a.partials, int64_t{blocks},
           divisor, loss);
  });
}

void mse_loss_backward_cuda(const MseLossBackward& a, Stream stream) {
  const MseLossProblem& p = a.problem;
  const double terms = p.reduction == Reduction::kMean ? static_cast<double>(p.size) : 1.0;
  with_element_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    launch("mse_loss", mse_loss_gradients<T>,
           elementwise_blocks<T>("mse_loss", p.size, kThreads, stream), kThreads, 0, stream,
           static_cast<const T*>(p.x), static_cast<const T*>(p.target),
           static_cast<const T*>(a.grad), p.reduction == Reduction::kNone,
           static_cast<float>(2.0 / terms), static_cast<T*>(a.grad_x),
           static_cast<T*>(a.grad_target), p.size);
  });
}

}  // namespace fastmodel
