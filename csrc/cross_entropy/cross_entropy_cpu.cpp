// cross_entropy on the CPU: softmax and log-likelihood in one, rows over threads.
//
// Bytes: forward reads the logits once (a running maximum over chunks that stay in L1, each then
// summed from there), backward reads them once and writes their gradient. Forward that leaves the
// gradient behind reads once and writes once: the second look at a row finds it in L2, up to some
// 256k classes; in float32 its exponentials wait in the gradient's row to be divided by their sum.
// 16 vector instructions for exp, so float32 logits beyond the caches are bound by memory, and a
// large fresh gradient by the system, which clears its pages. Label smoothing and probabilities go
// over the row once more, out of L2 likewise. The running maximum with its rescaled sum is the
// online softmax of Milakov and Gimelshein (2018), by chunks instead of elements.
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/exp.h"
#include "common/huge_pages.h"
#include "common/threads.h"
#include "cross_entropy/cross_entropy.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// 16 KiB of float32: half of the smallest L1 data cache in use.
constexpr int64_t kChunk = 4096;

// A thread takes at least this many logits: about 20 us of work, against a few us to start a team.
constexpr int64_t kLogitsPerThread = 32768;

int threads_for(const CrossEntropyProblem& p) {
  return static_cast<int>(
      std::min<int64_t>(p.threads, std::max<int64_t>(p.rows * p.classes / kLogitsPerThread, 1)));
}

// Calls body(i, lanes) for the vectors of [0, n): lanes is kLanes but for the last.
template <typename Body>
FASTMODEL_INLINE void for_each_vector(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, static_cast<int>(n - i));
}

FASTMODEL_INLINE IVec lane_numbers() {
  IVec lane;
  FASTMODEL_UNROLL
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane;
}

// The first n lanes of v; `fill` in the others.
FASTMODEL_INLINE Vec keep_first(Vec v, int n, float fill) {
  return n >= kLanes ? v : lane_numbers() < n ? v : broadcast(fill);
}

// The highest of x[0..n) that is not NaN, -inf if there is none.
template <typename T>
float highest(const T* x, int64_t n) {
  // Four at a time: one chain would wait for each comparison in turn.
  constexpr int kChains = 4;
  Vec best[kChains];
  FASTMODEL_UNROLL
  for (int k = 0; k < kChains; ++k) best[k] = broadcast(-kInfinity);
  int64_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
    FASTMODEL_UNROLL
    for (int k = 0; k < kChains; ++k) {
      const Vec v = load(x + i + k * kLanes);
      best[k] = v > best[k] ? v : best[k];
    }
  }
  for_each_vector(n - i, [&](int64_t j, int lanes) {
    const Vec v = keep_first(load_first(x + i + j, lanes), lanes, -kInfinity);
    best[0] = v > best[0] ? v : best[0];
  });
  FASTMODEL_UNROLL
  for (int k = 1; k < kChains; ++k) best[0] = best[k] > best[0] ? best[k] : best[0];
  return highest_lane(best[0]);
}

// What exponentials of x are taken against: where all is -inf, any finite shift gives exp(-inf) =
// 0.
FASTMODEL_INLINE Vec shift_by(float max) { return broadcast(max == -kInfinity ? 0.0f : max); }

struct RowStats {
  float max, log_sum;
};

// NaN and +inf anywhere make log_sum NaN; a row of nothing but -inf has the sum 0, so x - max is
// NaN.
template <typename T>
RowStats row_stats(const T* x, int64_t classes) {
  float max = -kInfinity, total = 0.0f;
  for (int64_t start = 0; start < classes; start += kChunk) {
    const T* chunk = x + start;
    const int64_t size = std::min(kChunk, classes - start);

    // NaN is left out here and comes back through the sum.
    const float chunk_max = highest(chunk, size);
    if (chunk_max > max) {
      if (total != 0.0f) total *= exp(broadcast(max - chunk_max))[0];
      max = chunk_max;
    }

    const Vec shift = shift_by(max);
    Vec chunk_sum = {};
    for_each_vector(size, [&](int64_t i, int lanes) {
      const Vec v = keep_first(load_first(chunk + i, lanes), lanes, -kInfinity);
      chunk_sum += exp(v - shift);
    });
    total += sum(chunk_sum);
  }
  return {max, std::log(total)};
}

struct RowSum {
  float max, sum;
};

// out = exp(x - max), and their sum; reads x twice. `ahead` is the row to come, fetched meanwhile:
// 6 % of 512 x 50,257 (2-core EPYC).
RowSum row_exponentials(const float* x, int64_t classes, const float* ahead, float* out) {
  const float max = highest(x, classes);
  const Vec shift = shift_by(max);
  Vec total = {};
  for_each_vector(classes, [&](int64_t i, int lanes) {
    __builtin_prefetch(ahead + i, 0, 2);
    const Vec e = exp(keep_first(load_first(x + i, lanes), lanes, -kInfinity) - shift);
    store_first(out + i, e, lanes);
    total += e;
  });
  return {max, sum(total)};
}

// The target's share of class i before its weight: scale * t[i] + offset.
struct Share {
  float scale, offset;
};

template <typename T>
FASTMODEL_INLINE Vec q_of(const T* weight, const T* t, Share share, int64_t i, int lanes) {
  Vec q = broadcast(share.offset);
  if (t != nullptr) q += share.scale * load_first(t + i, lanes);
  if (weight != nullptr) q *= load_first(weight + i, lanes);
  return q;
}

// sum_c q[c] * log p[c]
template <typename T>
float dot_with_log_p(const T* x, const T* weight, const T* t, Share share, RowStats stats,
                     int64_t classes) {
  Vec total = {};
  for_each_vector(classes, [&](int64_t i, int lanes) {
    const Vec log_p = (load_first(x + i, lanes) - stats.max) - stats.log_sum;
    total += keep_first(q_of(weight, t, share, i, lanes) * log_p, lanes, 0.0f);
  });
  return sum(total);
}

// sum_c q[c]
template <typename T>
float sum_of_q(const T* weight, const T* t, Share share, int64_t classes) {
  Vec total = {};
  for_each_vector(classes, [&](int64_t i, int lanes) {
    total += keep_first(q_of(weight, t, share, i, lanes), lanes, 0.0f);
  });
  return sum(total);
}

// The problem with its pointers typed, and what forward and backward derive alike.
template <typename T>
struct Typed {
  explicit Typed(const CrossEntropyProblem& p)
      : problem(p),
        x(static_cast<const T*>(p.x)),
        t(static_cast<const T*>(p.probability)),
        weight(static_cast<const T*>(p.class_weight)),
        share{static_cast<float>(1.0 - p.label_smoothing),
              p.classes > 0 ? static_cast<float>(p.label_smoothing / p.classes) : 0.0f} {}

  bool is_ignored(int64_t row) const {
    return problem.index != nullptr && problem.index[row] == problem.ignore_index;
  }
  float weight_of(int64_t c) const { return weight == nullptr ? 1.0f : to_float(weight[c]); }

  // What a class index (rather than probabilities) gives its class.
  float hot(int64_t c) const { return share.scale * weight_of(c); }

  // sum_c q[c] where the target is a class index, but for what `hot` gives.
  float smoothed() const {
    if (problem.index == nullptr || share.offset == 0.0f) return 0.0f;
    return sum_of_q<T>(weight, nullptr, share, problem.classes);
  }

  // The first row whose class index is neither a class nor ignore_index, or -1.
  int64_t row_at_fault() const {
    if (problem.index == nullptr) return -1;
    for (int64_t row = 0; row < problem.rows; ++row) {
      const int64_t c = problem.index[row];
      if ((c < 0 || c >= problem.classes) && c != problem.ignore_index) return row;
    }
    return -1;
  }

  // What the mean divides by.
  double divisor() const {
    if (problem.index == nullptr)
      return static_cast<double>(problem.classes > 0 ? problem.rows : 0);
    double total = 0.0;
    for (int64_t row = 0; row < problem.rows; ++row) {
      if (!is_ignored(row)) total += weight_of(problem.index[row]);
    }
    return total;
  }

  const CrossEntropyProblem& problem;
  const T *x, *t, *weight;
  Share share;
};

template <typename T>
float row_loss(const Typed<T>& d, int64_t row, RowStats stats) {
  if (d.is_ignored(row)) return 0.0f;
  const int64_t classes = d.problem.classes;
  const T* x = d.x + row * classes;
  const T* t = d.t == nullptr ? nullptr : d.t + row * classes;
  float loss = 0.0f;
  if (d.share.offset > 0.0f || t != nullptr) {
    loss = -dot_with_log_p(x, d.weight, t, d.share, stats, classes);
  }
  if (t == nullptr) {
    const int64_t c = d.problem.index[row];
    loss -= d.hot(c) * ((to_float(x[c]) - stats.max) - stats.log_sum);
  }
  return loss;
}

// out = s times the gradient of the row's loss by its logits; `smoothed` as Typed has it, and
// p(i, lanes) the softmax there.
template <typename T, typename Softmax>
void row_gradient(const Typed<T>& d, int64_t row, RowStats stats, float s, float smoothed,
                  const Softmax& p, T* out) {
  const int64_t classes = d.problem.classes;
  if (d.is_ignored(row)) {
    // As PyTorch, whose softmax is multiplied by 0 here: NaN where the row has no softmax.
    const Vec v = broadcast(std::isfinite(stats.max + stats.log_sum) ? 0.0f : kNaN);
    for_each_vector(classes, [&](int64_t i, int lanes) { store_first(out + i, v, lanes); });
    return;
  }
  const T* t = d.t == nullptr ? nullptr : d.t + row * classes;
  const int64_t c = t == nullptr ? d.problem.index[row] : -1;
  const float hot = t == nullptr ? d.hot(c) : 0.0f;
  const float q_sum = t == nullptr ? smoothed + hot : sum_of_q(d.weight, t, d.share, classes);
  for_each_vector(classes, [&](int64_t i, int lanes) {
    Vec q = q_of(d.weight, t, d.share, i, lanes);
    if (i <= c && c < i + kLanes) {
      q += lane_numbers() == static_cast<int32_t>(c - i) ? broadcast(hot) : Vec{};
    }
    store_first(out + i, s * (p(i, lanes) * q_sum - q), lanes);
  });
}

// The softmax of a row out of its logits.
template <typename T>
auto softmax_of(const T* x, RowStats stats) {
  return [=](int64_t i, int lanes) {
    return exp((load_first(x + i, lanes) - stats.max) - stats.log_sum);
  };
}

template <typename T>
void forward(const CrossEntropyForward& a) {
  const Typed<T> d(a.problem);
  const int64_t rows = a.problem.rows, classes = a.problem.classes;
  *a.row_at_fault = d.row_at_fault();
  if (*a.row_at_fault >= 0) return;

  T* loss = static_cast<T*>(a.loss);
  T* grad_x = static_cast<T*>(a.grad_x);
  advise_huge_pages(grad_x, rows * classes * sizeof(T));
  const double divisor = d.divisor();
  const bool is_mean = a.problem.reduction == Reduction::kMean;
  const float scale = is_mean ? static_cast<float>(1.0 / divisor) : 1.0f;
  const float smoothed = grad_x == nullptr ? 0.0f : d.smoothed();
  const int threads = threads_for(a.problem);
  std::vector<double> losses(threads);
  const auto loss_of = [&](int64_t row, RowStats stats) {
    if (a.stats != nullptr) {
      a.stats[row] = stats.max;
      a.stats[rows + row] = stats.log_sum;
    }
    const float own = row_loss(d, row, stats);
    if (a.row_loss != nullptr) a.row_loss[row] = own;
    if (loss != nullptr && a.problem.reduction == Reduction::kNone) from_float(own, loss + row);
    return own;
  };
  parallel_for(rows, threads, [&](int64_t begin, int64_t end, int share) {
    double total = 0.0;
    for (int64_t row = begin; row < end; ++row) {
      const T* x = d.x + row * classes;
      if (grad_x == nullptr) {
        total += loss_of(row, row_stats(x, classes));
        continue;
      }
      T* out = grad_x + row * classes;
      if constexpr (std::is_same_v<T, float>) {
        const RowSum found = row_exponentials(x, classes, row + 1 < end ? x + classes : x, out);
        const RowStats stats{found.max, std::log(found.sum)};
        total += loss_of(row, stats);
        const auto p = [out, share_of_sum = 1.0f / found.sum](int64_t i, int lanes) {
          return load_first(out + i, lanes) * share_of_sum;
        };
        row_gradient(d, row, stats, scale, smoothed, p, out);
      } else {
        const RowStats stats = row_stats(x, classes);
        total += loss_of(row, stats);
        row_gradient(d, row, stats, scale, smoothed, softmax_of(x, stats), out);
      }
    }
    losses[share] = total;
  });

  if (a.stats != nullptr) a.stats[2 * rows] = static_cast<float>(divisor);
  if (loss == nullptr || a.problem.reduction == Reduction::kNone) return;
  double total = 0.0;
  for (const double own : losses) total += own;
  // 0 / 0 is NaN: the mean over no rows, as PyTorch has it.
  from_float(static_cast<float>(is_mean ? total / divisor : total), loss);
}

template <typename T>
void backward(const CrossEntropyBackward& a) {
  const Typed<T> d(a.problem);
  const int64_t rows = a.problem.rows, classes = a.problem.classes;
  *a.row_at_fault = d.row_at_fault();
  if (*a.row_at_fault >= 0) return;

  const T* grad = static_cast<const T*>(a.grad);
  T* grad_x = static_cast<T*>(a.grad_x);
  T* grad_t = static_cast<T*>(a.grad_probability);
  advise_huge_pages(grad_x, rows * classes * sizeof(T));
  const bool is_per_row = a.problem.reduction == Reduction::kNone;
  const float divisor = a.problem.reduction == Reduction::kMean ? a.stats[2 * rows] : 1.0f;
  const float scale = is_per_row ? 0.0f : to_float(*grad) / divisor;
  const float smoothed = d.smoothed();
  parallel_for(rows, threads_for(a.problem), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const RowStats stats{a.stats[row], a.stats[rows + row]};
      const float s = is_per_row ? to_float(grad[row]) : scale;
      if (grad_x != nullptr) {
        const T* x = d.x + row * classes;
        row_gradient(d, row, stats, s, smoothed, softmax_of(x, stats), grad_x + row * classes);
      }
      if (grad_t != nullptr) {
        const T* x = d.x + row * classes;
        T* out = grad_t + row * classes;
        for_each_vector(classes, [&](int64_t i, int lanes) {
          const Vec log_p = (load_first(x + i, lanes) - stats.max) - stats.log_sum;
          Vec w = broadcast(-s * d.share.scale);
          if (d.weight != nullptr) w *= load_first(d.weight + i, lanes);
          store_first(out + i, w * log_p, lanes);
        });
      }
    }
  });
}

}  // namespace

void cross_entropy_forward_cpu(const CrossEntropyForward& args) {
  args.problem.dtype == DType::kFloat32 ? forward<float>(args) : forward<BFloat16>(args);
}

void cross_entropy_backward_cpu(const CrossEntropyBackward& args) {
  args.problem.dtype == DType::kFloat32 ? backward<float>(args) : backward<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
