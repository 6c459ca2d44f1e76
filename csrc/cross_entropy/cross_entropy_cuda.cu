// cross_entropy on a GPU: softmax, log-likelihood and gradient of a row in one block.
//
// Bytes of bfloat16 logits, a row of C classes: forward reads 2 C; backward reads 2 C and writes
// 2 C; forward that leaves the gradient behind reads 2 C and writes 2 C where its second look finds
// the row in L2: most of it, for at 128,256 classes (257 kB) two blocks on each of an H100's 132
// multiprocessors go through 68 MB, and its L2 holds 50. 8,192 x 128,256: 4.2 GB. PyTorch reads and
// writes the logits' size six times over: log_softmax 2, its gradient by the target 1, by the
// logits 3.
//
// FLOPs: two exponentials a logit, some 20 instructions: about the time of the bytes on an H100
// (1.05e9 logits: 4.2e10 instructions of 3e13 a second, 1.4 ms against 1.3).
//
// Each thread keeps a running maximum and a sum rescaled by it, over packs of 16 bytes; the block
// agrees on both (the online softmax of Milakov and Gimelshein, 2018). Rows of up to kWarpClasses
// go to one warp, which needs no barrier. Sums are in a fixed order: the result is deterministic.
#include <cmath>
#include <limits>

#include "common/cuda_assert.cuh"
#include "common/gpu_elements.cuh"
#include "cross_entropy/cross_entropy_cuda.h"

namespace fastmodel {
namespace {

constexpr int kBlockThreads = 512;
constexpr int64_t kWarpClasses = 1024;
constexpr int64_t kMostBlocks = 1 << 20;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLog2E = 0x1.715476p0f;

__device__ __forceinline__ float exponential(float x) { return exp2f(x * kLog2E); }

// What a kernel reads of the problem.
template <typename T>
struct Rows {
  const T* x;
  const int64_t* index;
  const T* probability;
  const T* class_weight;
  int64_t rows, classes, ignore_index;
  float keep, smooth;  // 1 - e, e / C

  __device__ __forceinline__ float weight_of(int64_t c) const {
    return class_weight == nullptr ? 1.0f : to_float(class_weight[c]);
  }
  __device__ __forceinline__ bool is_ignored(int64_t row) const {
    return index != nullptr && index[row] == ignore_index;
  }
  // q of class c, but for what a class index adds; t is its probability.
  __device__ __forceinline__ float q_of(int64_t c, float t) const {
    return weight_of(c) * (smooth + keep * t);
  }
};

// What all rows share: scalars[0] = divisor, scalars[1] = sum_c w[c] e / C. One block.
template <typename T>
__global__ __launch_bounds__(kBlockThreads) void cross_entropy_prepare(Rows<T> p, float* scalars,
                                                                       float* stats_divisor) {
  double divisor = 0.0, smoothed = 0.0;
  if (p.index != nullptr) {
    for (int64_t row = threadIdx.x; row < p.rows; row += kBlockThreads) {
      if (p.is_ignored(row)) continue;
      const int64_t c = p.index[row];
      device_check(c >= 0 && c < p.classes,
                   "cross_entropy: a target is none of the classes, nor ignore_index");
      divisor += p.weight_of(c);
    }
    for (int64_t c = threadIdx.x; c < p.classes && p.smooth > 0.0f; c += kBlockThreads) {
      smoothed += p.weight_of(c) * p.smooth;
    }
  }
  divisor = block_sum<kBlockThreads>(divisor);
  smoothed = block_sum<kBlockThreads>(smoothed);
  if (threadIdx.x > 0) return;
  if (p.index == nullptr) divisor = p.classes > 0 ? static_cast<double>(p.rows) : 0.0;
  scalars[0] = static_cast<float>(divisor);
  scalars[1] = static_cast<float>(smoothed);
  if (stats_divisor != nullptr) *stats_divisor = static_cast<float>(divisor);
}

struct RowStats {
  float max, log_sum;

  __device__ __forceinline__ float log_p(float x) const { return (x - max) - log_sum; }
};

// NaN and +inf anywhere make log_sum NaN; a row of nothing but -inf has the sum 0, so x - max is
// NaN.
template <int kThreads, typename T>
__device__ RowStats row_stats(const T* x, int64_t classes) {
  float max = -kInfinity, sum = 0.0f;
  for_each_pack<T>(classes, head_of(classes, x), threadIdx.x, kThreads, [&](auto width, int64_t i) {
    const auto v = load_floats(width, x + i);
    // NaN is left out here and comes back through the sum.
    float highest = max;
#pragma unroll
    for (int k = 0; k < width.kCount; ++k) highest = v[k] > highest ? v[k] : highest;
    if (highest > max) {
      sum *= exponential(max - highest);
      max = highest;
    }
    const float shift = max == -kInfinity ? 0.0f : max;
#pragma unroll
    for (int k = 0; k < width.kCount; ++k) sum += exponential(v[k] - shift);
  });
  const float all = block_max<kThreads>(max);
  if (max != all) sum *= exponential(max - all);
  sum = block_sum<kThreads>(sum);
  return {all, logf(sum)};
}

// Of a row: sum_c q[c] and sum_c q[c] log p[c], but for what a class index adds.
struct RowSums {
  float q, q_log_p;
};

template <int kThreads, typename T>
__device__ RowSums row_sums(const Rows<T>& p, const T* x, const T* t, RowStats stats) {
  RowSums sums = {0.0f, 0.0f};
  const int64_t head = t == nullptr ? head_of(p.classes, x) : head_of(p.classes, x, t);
  for_each_pack<T>(p.classes, head, threadIdx.x, kThreads, [&](auto width, int64_t i) {
    const auto v = load_floats(width, x + i);
    Floats<decltype(width)::kCount> share = {};
    if (t != nullptr) share = load_floats(width, t + i);
#pragma unroll
    for (int k = 0; k < width.kCount; ++k) {
      const float q = p.q_of(i + k, share[k]);
      sums.q += q;
      sums.q_log_p += q * stats.log_p(v[k]);
    }
  });
  return {block_sum<kThreads>(sums.q), block_sum<kThreads>(sums.q_log_p)};
}

// out = s times the gradient of the row's loss by its logits; q_sum = sum_c q[c], hot what the
// class index c adds to q.
template <int kThreads, typename T>
__device__ void row_gradient(const Rows<T>& p, const T* x, const T* t, RowStats stats, float s,
                             float q_sum, int64_t c, float hot, T* out) {
  const int64_t head = head_of(p.classes, x, out, t);
  for_each_pack<T>(p.classes, head, threadIdx.x, kThreads, [&](auto width, int64_t i) {
    auto v = load_floats(width, x + i);
    Floats<decltype(width)::kCount> share = {};
    if (t != nullptr) share = load_floats(width, t + i);
#pragma unroll
    for (int k = 0; k < width.kCount; ++k) {
      float q = i + k == c ? hot : 0.0f;
      if (t != nullptr || p.smooth > 0.0f) q += p.q_of(i + k, share[k]);
      v[k] = s * (exponential(stats.log_p(v[k])) * q_sum - q);
    }
    store_floats(out + i, v);
  });
}

template <int kThreads, typename T>
__device__ void fill_row(float value, int64_t classes, T* out) {
  for_each_pack<T>(classes, head_of(classes, out), threadIdx.x, kThreads,
                   [&](auto width, int64_t i) {
                     Floats<decltype(width)::kCount> v;
#pragma unroll
                     for (int k = 0; k < width.kCount; ++k) v[k] = value;
                     store_floats(out + i, v);
                   });
}

// -s (1 - e) w[c] log p[c] for every class.
template <int kThreads, typename T>
__device__ void row_gradient_by_target(const Rows<T>& p, const T* x, RowStats stats, float s,
                                       T* out) {
  for_each_pack<T>(p.classes, head_of(p.classes, x, out), threadIdx.x, kThreads,
                   [&](auto width, int64_t i) {
                     auto v = load_floats(width, x + i);
#pragma unroll
                     for (int k = 0; k < width.kCount; ++k) {
                       v[k] = -s * p.keep * p.weight_of(i + k) * stats.log_p(v[k]);
                     }
                     store_floats(out + i, v);
                   });
}

// What the rows' kernel reads and writes beside the problem; null what is not there or not wanted.
template <typename T>
struct RowTargets {
  const float* stats_in;  // (2 * rows)
  float* stats_out;       // (2 * rows)
  float* row_loss;        // (rows)
  T* loss;                // (rows)
  const T* grad;          // (rows) or one
  bool grad_is_per_row;
  bool is_mean;
  T* grad_x;             // (rows, classes)
  T* grad_probability;   // (rows, classes)
  const float* scalars;  // divisor, smoothed
};

template <int kThreads, typename T>
__global__ __launch_bounds__(kThreads) void cross_entropy_rows(Rows<T> p, RowTargets<T> to) {
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* const x = p.x + row * p.classes;
    const T* const t = p.probability == nullptr ? nullptr : p.probability + row * p.classes;
    const RowStats stats = to.stats_in == nullptr
                               ? row_stats<kThreads>(x, p.classes)
                               : RowStats{to.stats_in[row], to.stats_in[p.rows + row]};
    const bool is_ignored = p.is_ignored(row);
    const int64_t c = p.index == nullptr || is_ignored ? -1 : p.index[row];
    const float hot = c < 0 ? 0.0f : p.keep * p.weight_of(c);

    RowSums sums = {hot, 0.0f};
    if (t != nullptr || (p.smooth > 0.0f && to.row_loss != nullptr)) {
      const RowSums found = row_sums<kThreads>(p, x, t, stats);
      sums.q += found.q;
      sums.q_log_p = found.q_log_p;
    } else {
      sums.q += to.scalars[1];
    }

    if (threadIdx.x == 0) {
      if (to.stats_out != nullptr) {
        to.stats_out[row] = stats.max;
        to.stats_out[p.rows + row] = stats.log_sum;
      }
      if (to.row_loss != nullptr) {
        float loss = -sums.q_log_p;
        if (c >= 0) loss -= hot * stats.log_p(to_float(x[c]));
        if (is_ignored) loss = 0.0f;
        to.row_loss[row] = loss;
        if (to.loss != nullptr) from_float(loss, to.loss + row);
      }
    }
    if (to.grad_x == nullptr && to.grad_probability == nullptr) continue;

    float s = to.grad == nullptr ? 1.0f : to_float(to.grad[to.grad_is_per_row ? row : 0]);
    if (to.is_mean) s /= to.scalars[0];
    if (to.grad_x != nullptr) {
      T* const out = to.grad_x + row * p.classes;
      if (is_ignored) {
        // As PyTorch, whose softmax is multiplied by 0 here: NaN where the row has no softmax.
        const float total = stats.max + stats.log_sum;
        fill_row<kThreads>(total - total == 0.0f ? 0.0f : total - total, p.classes, out);
      } else {
        row_gradient<kThreads>(p, x, t, stats, s, sums.q, c, hot, out);
      }
    }
    if (to.grad_probability != nullptr) {
      row_gradient_by_target<kThreads>(p, x, stats, s, to.grad_probability + row * p.classes);
    }
  }
}

// loss = sum of row_loss, over the divisor for the mean. One block.
template <typename T>
__global__ __launch_bounds__(kBlockThreads) void cross_entropy_reduce(const float* row_loss,
                                                                      int64_t rows, bool is_mean,
                                                                      const float* scalars,
                                                                      T* loss) {
  double total = 0.0;
  for (int64_t row = threadIdx.x; row < rows; row += kBlockThreads) total += row_loss[row];
  total = block_sum<kBlockThreads>(total);
  // 0 / 0 is NaN: the mean over no rows, as PyTorch has it.
  if (threadIdx.x == 0) from_float(static_cast<float>(is_mean ? total / scalars[0] : total), loss);
}

template <typename T>
__global__ __launch_bounds__(kBlockThreads) void cross_entropy_scale(T* gradient, const T* factor,
                                                                     int64_t n) {
  const float scale = to_float(*factor);
  if (scale == 1.0f) return;
  for_each_pack<T>(n, head_of(n, gradient), grid_thread(), grid_threads(),
                   [&](auto width, int64_t i) {
                     auto v = load_floats(width, gradient + i);
#pragma unroll
                     for (int k = 0; k < width.kCount; ++k) v[k] *= scale;
                     store_floats(gradient + i, v);
                   });
}

template <typename T>
Rows<T> rows_of(const CrossEntropyProblem& p) {
  return {static_cast<const T*>(p.x),
          p.index,
          static_cast<const T*>(p.probability),
          static_cast<const T*>(p.class_weight),
          p.rows,
          p.classes,
          p.ignore_index,
          static_cast<float>(1.0 - p.label_smoothing),
          p.classes > 0 ? static_cast<float>(p.label_smoothing / p.classes) : 0.0f};
}

template <typename T>
void launch_rows(const Rows<T>& p, const RowTargets<T>& to, Stream stream) {
  const auto blocks = static_cast<unsigned>(p.rows < kMostBlocks ? p.rows : kMostBlocks);
  if (p.classes <= kWarpClasses) {
    launch("cross_entropy", cross_entropy_rows<kWarp, T>, blocks, kWarp, 0, stream, p, to);
  } else {
    launch("cross_entropy", cross_entropy_rows<kBlockThreads, T>, blocks, kBlockThreads, 0, stream,
           p, to);
  }
}

template <typename T>
void forward(const CrossEntropyForwardCuda& a, Stream stream) {
  const CrossEntropyProblem& problem = a.problem;
  const Rows<T> p = rows_of<T>(problem);
  float* const scalars = a.scratch + problem.rows;
  launch("cross_entropy", cross_entropy_prepare<T>, 1, kBlockThreads, 0, stream, p, scalars,
         a.stats == nullptr ? nullptr : a.stats + 2 * problem.rows);
  const bool is_none = problem.reduction == Reduction::kNone;
  const bool is_mean = problem.reduction == Reduction::kMean;
  T* const loss = static_cast<T*>(a.loss);
  launch_rows<T>(p,
                 {nullptr, a.stats, a.scratch, is_none ? loss : nullptr, nullptr, false, is_mean,
                  static_cast<T*>(a.grad_x), nullptr, scalars},
                 stream);
  if (is_none) return;
  launch("cross_entropy", cross_entropy_reduce<T>, 1, kBlockThreads, 0, stream, a.scratch,
         problem.rows, is_mean, scalars, loss);
}

template <typename T>
void backward(const CrossEntropyBackwardCuda& a, Stream stream) {
  const CrossEntropyProblem& problem = a.problem;
  const Rows<T> p = rows_of<T>(problem);
  float* const scalars = a.scratch + problem.rows;
  launch("cross_entropy", cross_entropy_prepare<T>, 1, kBlockThreads, 0, stream, p, scalars,
         nullptr);
  launch_rows<T>(p,
                 {a.stats, nullptr, nullptr, nullptr, static_cast<const T*>(a.grad),
                  problem.reduction == Reduction::kNone, problem.reduction == Reduction::kMean,
                  static_cast<T*>(a.grad_x), static_cast<T*>(a.grad_probability), scalars},
                 stream);
}

}  // namespace

void cross_entropy_forward_cuda(const CrossEntropyForwardCuda& a, Stream stream) {
  with_element_type(a.problem.dtype, [&](auto type) { forward<decltype(type)>(a, stream); });
}

void cross_entropy_backward_cuda(const CrossEntropyBackwardCuda& a, Stream stream) {
  with_element_type(a.problem.dtype, [&](auto type) { backward<decltype(type)>(a, stream); });
}

void cross_entropy_scale_cuda(void* gradient, const void* factor, int64_t size, DType dtype,
                              Stream stream) {
  with_element_type(dtype, [&](auto type) {
    using T = decltype(type);
    launch("cross_entropy", cross_entropy_scale<T>,
           elementwise_blocks<T>("cross_entropy", size, kBlockThreads, stream), kBlockThreads, 0,
           stream, static_cast<T*>(gradient), static_cast<const T*>(factor), size);
  });
}

}  // namespace fastmodel
