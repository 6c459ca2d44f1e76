// adam on the CPU: every parameter, gradient and moment is read once and, but for the gradient,
// written once.
//
// Bytes a parameter in float32: read p, g, m, v (16), write p, m, v (12): 28; amsgrad 36; bfloat16
// half of that. FLOPs: about 14, with one square root and one division, which AVX-512 delivers
// faster than memory delivers 28 bytes: bandwidth is the floor.
#include <cmath>

#include "adam/adam.h"
#include "common/tensor_list.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// What depends on a tensor's step count, in double as PyTorch computes it.
struct Correction {
  float step;
  float step_size;            // lr / (1 - beta1^t)
  float inverse_sqrt_second;  // 1 / sqrt(1 - beta2^t)
};

// Counts every tensor's step and returns its correction; equal counts share the two powers.
std::vector<Correction> count_steps(const AdamStep& a) {
  std::vector<Correction> corrections;
  corrections.reserve(a.tensors.steps.size());
  for (float* const count : a.tensors.steps) {
    const float step = *count += 1.0f;
    if (!corrections.empty() && corrections.back().step == step) {
      corrections.push_back(corrections.back());
      continue;
    }
    const double first = 1.0 - std::pow(a.beta1, static_cast<double>(step));
    const double second = 1.0 - std::pow(a.beta2, static_cast<double>(step));
    corrections.push_back(
        {step, static_cast<float>(a.lr / first), static_cast<float>(1.0 / std::sqrt(second))});
  }
  return corrections;
}

// NaN in either wins, as in torch.maximum.
FASTMODEL_INLINE Vec maximum(Vec a, Vec b) { return ((a < b) | (b != b)) ? b : a; }

template <typename T, bool kAmsgrad, bool kL2>
void update(const AdamStep& a, size_t t, const Correction& c, int64_t begin, int64_t end) {
  const auto& columns = a.tensors.columns;
  T* p = static_cast<T*>(columns[0][t]);
  const T* g = static_cast<const T*>(columns[1][t]);
  T* m = static_cast<T*>(columns[2][t]);
  T* v = static_cast<T*>(columns[3][t]);
  T* vmax = kAmsgrad ? static_cast<T*>(columns[4][t]) : nullptr;
  const float grad_factor = static_cast<float>(a.grad_factor);
  const float weight_decay = static_cast<float>(a.weight_decay);
  const float keep = a.is_decoupled ? static_cast<float>(1.0 - a.lr * a.weight_decay) : 1.0f;
  const float new_first = static_cast<float>(1.0 - a.beta1);
  const float keep_first = 1.0f - new_first;
  const float keep_second = static_cast<float>(a.beta2);
  const float new_second = static_cast<float>(1.0 - a.beta2);
  const float eps = static_cast<float>(a.eps);
  const bool is_new_light = new_first < 0.5f;

  const auto lanes = [&](int64_t i, int n) __attribute__((always_inline)) {
    Vec param = load_first(p + i, n);
    Vec grad = load_first(g + i, n) * grad_factor;
    const Vec first_before = load_first(m + i, n);
    if (kL2) grad += param * weight_decay;
    // As torch.lerp: from the end that weighs more, so that infinities meet the same fate.
    const Vec first = is_new_light ? first_before + (grad - first_before) * new_first
                                   : grad - (grad - first_before) * keep_first;
    const Vec second = load_first(v + i, n) * keep_second + (grad * new_second) * grad;
    Vec scale = second;
    if (kAmsgrad) {
      scale = maximum(load_first(vmax + i, n), second);
      store_first(vmax + i, scale, n);
    }
    const Vec denominator = square_root(scale) * c.inverse_sqrt_second + eps;
    param = param * keep - (first * c.step_size) / denominator;
    store_first(m + i, first, n);
    store_first(v + i, second, n);
    store_first(p + i, param, n);
  };
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) lanes(i, kLanes);
  if (i < end) lanes(i, static_cast<int>(end - i));
}

template <typename T, bool kAmsgrad, bool kL2>
void step(const AdamStep& a) {
  const std::vector<Correction> corrections = count_steps(a);
  for_each_share(a.tensors, sizeof(T), a.threads, [&](size_t t, int64_t begin, int64_t end) {
    update<T, kAmsgrad, kL2>(a, t, corrections[t], begin, end);
  });
}

template <typename T>
void step(const AdamStep& a) {
  // A decay of 0 is left out rather than multiplied: 0 * inf is NaN.
  const bool is_l2 = a.weight_decay != 0.0 && !a.is_decoupled;
  if (a.tensors.columns.size() == 5) {
    is_l2 ? step<T, true, true>(a) : step<T, true, false>(a);
  } else {
    is_l2 ? step<T, false, true>(a) : step<T, false, false>(a);
  }
}

}  // namespace

void adam_step_cpu(const AdamStep& args) {
  args.tensors.dtype == DType::kFloat32 ? step<float>(args) : step<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
