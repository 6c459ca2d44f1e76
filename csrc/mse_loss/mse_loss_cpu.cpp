// mse_loss on the CPU: one pass forward, one pass backward.
//
// Bytes an element of float32: forward reads 8 (and writes 4 without a reduction), backward reads 8
// and writes 4 a gradient. Three FLOPs each: memory is the floor, or the caches where it fits.
//
// A sum goes by chunks: float32 lanes within a chunk, float64 over chunks in their order, so that
// it is the same for every thread count and its error does not grow with the size.
#include <vector>

#include "common/threads.h"
#include "common/vectors.h"
#include "mse_loss/mse_loss.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Additions a lane of the sum makes in float32: kChunk / (4 kLanes), 64 with AVX-512.
constexpr int64_t kChunk = 4096;

// A thread takes at least this many chunks: some 10 us of work, against a few to start a team.
constexpr int64_t kChunksPerThread = 8;

// Calls body(begin, end, chunk) for every chunk of [0, size).
template <typename Body>
void for_each_chunk(const MseLossProblem& p, const Body& body) {
  const int64_t chunks = (p.size + kChunk - 1) / kChunk;
  const int threads = static_cast<int>(
      std::min<int64_t>(p.threads, std::max<int64_t>(chunks / kChunksPerThread, 1)));
  parallel_for(chunks, threads, [&](int64_t first, int64_t last, int) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      body(chunk * kChunk, std::min(p.size, (chunk + 1) * kChunk), chunk);
    }
  });
}

// Calls body(i, lanes) for the vectors of [begin, end): lanes is kLanes but for the last.
template <typename Body>
FASTMODEL_INLINE void for_each_vector(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, kLanes);
  if (i < end) body(i, static_cast<int>(end - i));
}

template <typename T>
FASTMODEL_INLINE Vec difference(const T* x, const T* target, int lanes) {
  return load_first(x, lanes) - load_first(target, lanes);
}

template <typename T>
double sum_of_chunk(const T* x, const T* target, int64_t begin, int64_t end) {
  constexpr int kSums = 4;  // 2 ports x 4 cycles of latency, two loads each
  Vec sums[kSums] = {};
  int64_t i = begin;
  for (; i + kSums * kLanes <= end; i += kSums * kLanes) {
    FASTMODEL_UNROLL
    for (int s = 0; s < kSums; ++s) {
      const Vec d = difference(x + i + s * kLanes, target + i + s * kLanes, kLanes);
      sums[s] += d * d;
    }
  }
  for_each_vector(i, end, [&](int64_t j, int lanes) {
    const Vec d = difference(x + j, target + j, lanes);
    sums[0] += d * d;
  });
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <typename T>
void forward(const MseLossForward& a) {
  const MseLossProblem& p = a.problem;
  const T* x = static_cast<const T*>(p.x);
  const T* target = static_cast<const T*>(p.target);
  T* loss = static_cast<T*>(a.loss);
  if (p.reduction == Reduction::kNone) {
    for_each_chunk(p, [&](int64_t begin, int64_t end, int64_t) {
      for_each_vector(begin, end, [&](int64_t i, int lanes) {
        const Vec d = difference(x + i, target + i, lanes);
        store_first(loss + i, d * d, lanes);
      });
    });
    return;
  }
  std::vector<double> sums((p.size + kChunk - 1) / kChunk);
  for_each_chunk(p, [&](int64_t begin, int64_t end, int64_t chunk) {
    sums[chunk] = sum_of_chunk(x, target, begin, end);
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  if (p.reduction == Reduction::kMean) total /= static_cast<double>(p.size);
  from_float(static_cast<float>(total), loss);
}

template <typename T>
void backward(const MseLossBackward& a) {
  const MseLossProblem& p = a.problem;
  const T* x = static_cast<const T*>(p.x);
  const T* target = static_cast<const T*>(p.target);
  const T* grad = static_cast<const T*>(a.grad);
  T* grad_x = static_cast<T*>(a.grad_x);
  T* grad_target = static_cast<T*>(a.grad_target);
  const auto run = [&](const auto& factor) {
    for_each_chunk(p, [&](int64_t begin, int64_t end, int64_t) {
      const auto pass = [&](T* first, bool is_negative, T* second) {
        for_each_vector(begin, end, [&](int64_t i, int lanes) {
          const Vec d = difference(x + i, target + i, lanes) * factor(i, lanes);
          store_first(first + i, is_negative ? -d : d, lanes);
          if (second != nullptr) store_first(second + i, -d, lanes);
        });
      };
      if (grad_x != nullptr) {
        pass(grad_x, false, grad_target);
      } else if (grad_target != nullptr) {
        pass(grad_target, true, nullptr);
      }
    });
  };
  if (p.reduction == Reduction::kNone) {
    run([&](int64_t i, int lanes) { return 2.0f * load_first(grad + i, lanes); });
    return;
  }
  const double terms = p.reduction == Reduction::kMean ? static_cast<double>(p.size) : 1.0;
  const Vec factor = broadcast(static_cast<float>(2.0 * to_float(*grad) / terms));
  run([&](int64_t, int) { return factor; });
}

}  // namespace

void mse_loss_forward_cpu(const MseLossForward& args) {
  args.problem.dtype == DType::kFloat32 ? forward<float>(args) : forward<BFloat16>(args);
}

void mse_loss_backward_cpu(const MseLossBackward& args) {
  args.problem.dtype == DType::kFloat32 ? backward<float>(args) : backward<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
