// sgd on the CPU: every parameter and momentum buffer is read and written once, every gradient read
// once.
//
// Bytes a parameter in float32: read p, g and write p: 12; with momentum read and write b too: 20;
// bfloat16 half of that. FLOPs: 2 to 8: bandwidth is the floor.
#include "common/tensor_list.h"
#include "common/vectors.h"
#include "sgd/sgd.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

template <typename T, bool kMomentum, bool kDecay>
void update(const SgdStep& a, size_t t, int64_t begin, int64_t end) {
  const auto& columns = a.tensors.columns;
  T* p = static_cast<T*>(columns[0][t]);
  const T* g = static_cast<const T*>(columns[1][t]);
  T* b = kMomentum ? static_cast<T*>(columns[2][t]) : nullptr;
  const float grad_factor = static_cast<float>(a.grad_factor);
  const float weight_decay = static_cast<float>(a.weight_decay);
  const float lr = static_cast<float>(a.lr);
  const float momentum = static_cast<float>(a.momentum);
  const float undamped = static_cast<float>(1.0 - a.dampening);
  const bool is_first = kMomentum && a.are_first[t], is_nesterov = a.is_nesterov;

  const auto lanes = [&](int64_t i, int n) __attribute__((always_inline)) {
    const Vec param = load_first(p + i, n);
    Vec direction = load_first(g + i, n) * grad_factor;
    if (kDecay) direction += param * weight_decay;
    if (kMomentum) {
      const Vec buffer =
          is_first ? direction : load_first(b + i, n) * momentum + direction * undamped;
      store_first(b + i, buffer, n);
      direction = is_nesterov ? direction + buffer * momentum : buffer;
    }
    store_first(p + i, param - direction * lr, n);
  };
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) lanes(i, kLanes);
  if (i < end) lanes(i, static_cast<int>(end - i));
}

template <typename T, bool kMomentum, bool kDecay>
void step(const SgdStep& a) {
  for_each_share(a.tensors, sizeof(T), a.threads, [&](size_t t, int64_t begin, int64_t end) {
    update<T, kMomentum, kDecay>(a, t, begin, end);
  });
}

template <typename T>
void step(const SgdStep& a) {
  // A factor of 0 is left out rather than multiplied: 0 * inf is NaN.
  const bool is_decay = a.weight_decay != 0.0;
  if (a.momentum != 0.0) {
    is_decay ? step<T, true, true>(a) : step<T, true, false>(a);
  } else {
    is_decay ? step<T, false, true>(a) : step<T, false, false>(a);
  }
}

}  // namespace

void sgd_step_cpu(const SgdStep& args) {
  args.tensors.dtype == DType::kFloat32 ? step<float>(args) : step<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
