// adam on the CPU: every parameter, gradient and moment is read once and, but for the gradient,
// written once.
//
// Bytes a parameter in float32: read p, g, m, v (16), write p, m, v (12): 28; amsgrad 36; scaled
// gradients, which are unscaled in place, 32; bfloat16 moments 20. All in bfloat16: half of 28.
// FLOPs: about 14, with one square root and one division, which AVX-512 delivers faster than memory
// delivers 28 bytes: bandwidth is the floor. The random bits of bfloat16 moments take some 25
// instructions for a vector of 16 (Philox, common/philox.h), within what memory takes for its 320
// bytes.
#include "adam/adam.h"
#include "adam/adam_update.h"
#include "adam/stochastic_rounding.h"
#include "common/prefetch.h"
#include "common/tensor_list.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// What depends on a tensor's step count.
struct Correction {
  float step;
  AdamCorrection factors;
};

// Counts every tensor's step and returns its correction; equal counts share the two powers.
std::vector<Correction> count_steps(const AdamGroup& a) {
  std::vector<Correction> corrections;
  corrections.reserve(a.tensors->steps.size());
  for (float* const count : a.tensors->steps) {
    const float step = *count += 1.0f;
    if (!corrections.empty() && corrections.back().step == step) {
      corrections.push_back(corrections.back());
      continue;
    }
    corrections.push_back({step, adam_correction(a.lr, a.beta1, a.beta2, step)});
  }
  return corrections;
}

// NaN in either wins, as in torch.maximum.
FASTMODEL_INLINE Vec maximum(Vec a, Vec b) { return ((a < b) | (b != b)) ? b : a; }

// P is the parameters' and gradients' type, S the moments', rounded at random if kRandom.
template <typename P, typename S, bool kRandom, bool kAmsgrad>
void update(const AdamGroup& a, size_t t, const Correction& c, int64_t begin, int64_t end) {
  const auto& columns = a.tensors->columns;
  P* p = static_cast<P*>(columns[0][t]);
  P* g = static_cast<P*>(columns[1][t]);
  S* m = static_cast<S*>(columns[2][t]);
  S* v = static_cast<S*>(columns[3][t]);
  S* vmax = kAmsgrad ? static_cast<S*>(columns[4][t]) : nullptr;
  const bool is_scaled = a.grad_unscale != 1.0;
  const float grad_unscale = static_cast<float>(a.grad_unscale);
  const float grad_factor = static_cast<float>(a.grad_factor);
  const AdamScalars scalars =
      adam_scalars(a.lr, a.beta1, a.beta2, a.eps, a.weight_decay, a.is_decoupled, c.factors);
  const int64_t size = a.tensors->sizes[t];

  // `bits` are 32 random ones a lane: the lower half is m's, the upper v's and vmax's. That vmax
  // shares v's keeps it the maximum of the rounded v.
  const auto lanes = [&](int64_t i, int n, UVec bits) __attribute__((always_inline)) {
    const auto keep_state = [n](S* s, Vec value, UVec cut) __attribute__((always_inline)) {
      if constexpr (kRandom) {
        store_rounded(s, value, cut, n);
      } else {
        store_first(s, value, n);
      }
    };
    prefetch(i, size, p, static_cast<const P*>(g), m, v);
    if (kAmsgrad) prefetch(i, size, vmax);
    Vec param = load_first(p + i, n);
    Vec grad = load_first(g + i, n);
    if (is_scaled) {
      grad *= grad_unscale;
      store_first(g + i, grad, n);
    }
    grad *= grad_factor;
    Vec first = load_first(m + i, n), second = load_first(v + i, n);
    adam_moments(scalars, param, grad, first, second);
    Vec scale = second;
    if (kAmsgrad) {
      scale = maximum(load_first(vmax + i, n), second);
      keep_state(vmax + i, scale, bits >> 16);
    }
    param = adam_param(scalars, param, first, square_root(scale));
    keep_state(m + i, first, bits & 0xFFFFu);
    keep_state(v + i, second, bits >> 16);
    store_first(p + i, param, n);
  };
  if constexpr (kRandom) {
    for_each_with_bits(begin, end, a.tensors->ordinals[t], static_cast<uint32_t>(c.step),
                       *a.rounding_seed, lanes);
  } else {
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) lanes(i, kLanes, UVec{});
    if (i < end) lanes(i, static_cast<int>(end - i), UVec{});
  }
}

using Update = void (*)(const AdamGroup&, size_t, const Correction&, int64_t, int64_t);

template <typename P>
Update update_of(bool is_random, bool is_amsgrad) {
  if (is_random) {
    return is_amsgrad ? update<P, BFloat16, true, true> : update<P, BFloat16, true, false>;
  }
  return is_amsgrad ? update<P, P, false, true> : update<P, P, false, false>;
}

}  // namespace

void adam_step_cpu(const AdamStep& args) {
  std::vector<const TensorTable*> tables;
  std::vector<std::vector<Correction>> corrections;
  std::vector<Update> updates;
  for (const AdamGroup& group : args.groups) {
    const TensorTable& table = *group.tensors;
    const bool is_random = group.rounding_seed.has_value(), is_amsgrad = table.columns.size() == 5;
    tables.push_back(&table);
    corrections.push_back(count_steps(group));
    updates.push_back(table.dtype == DType::kFloat32 ? update_of<float>(is_random, is_amsgrad)
                                                     : update_of<BFloat16>(is_random, is_amsgrad));
  }
  for_each_share(tables, args.threads, [&](uint32_t g, uint32_t t, int64_t begin, int64_t end) {
    updates[g](args.groups[g], t, corrections[g][t], begin, end);
  });
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
