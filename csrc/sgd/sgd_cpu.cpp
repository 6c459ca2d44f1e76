// sgd on the CPU: every parameter and momentum buffer is read and written once, every gradient read
// once.
//
// Bytes a parameter in float32: read p, g and write p: 12; with momentum read and write b too: 20;
// scaled gradients, which are unscaled in place, 4 more; bfloat16 half of that. FLOPs: 2 to 8:
// bandwidth is the floor.
#include "common/prefetch.h"
#include "common/tensor_list.h"
#include "common/vectors.h"
#include "sgd/sgd.h"
#include "sgd/sgd_update.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

template <typename T, bool kMomentum>
void update(const SgdGroup& a, size_t t, int64_t begin, int64_t end) {
  const auto& columns = a.tensors->columns;
  T* p = static_cast<T*>(columns[0][t]);
  T* g = static_cast<T*>(columns[1][t]);
  T* b = kMomentum ? static_cast<T*>(columns[2][t]) : nullptr;
  const bool is_scaled = a.grad_unscale != 1.0;
  const float grad_unscale = static_cast<float>(a.grad_unscale);
  const float grad_factor = static_cast<float>(a.grad_factor);
  const SgdScalars scalars =
      sgd_scalars(a.lr, a.momentum, a.dampening, a.weight_decay, a.is_nesterov);
  const int64_t size = a.tensors->sizes[t];
  const bool is_first = kMomentum && a.are_first[t];

  const auto lanes = [&](int64_t i, int n) __attribute__((always_inline)) {
    prefetch(i, size, p, static_cast<const T*>(g));
    if (kMomentum) prefetch(i, size, b);
    const Vec param = load_first(p + i, n);
    Vec direction = load_first(g + i, n);
    if (is_scaled) {
      direction *= grad_unscale;
      store_first(g + i, direction, n);
    }
    direction = sgd_direction(scalars, param, direction * grad_factor);
    if (kMomentum) {
      const Vec buffer =
          is_first ? direction : sgd_buffer(scalars, load_first(b + i, n), direction);
      store_first(b + i, buffer, n);
      direction = sgd_momentum(scalars, buffer, direction);
    }
    store_first(p + i, param - direction * scalars.lr, n);
  };
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) lanes(i, kLanes);
  if (i < end) lanes(i, static_cast<int>(end - i));
}

using Update = void (*)(const SgdGroup&, size_t, int64_t, int64_t);

template <typename T>
Update update_of(bool has_momentum) {
  return has_momentum ? update<T, true> : update<T, false>;
}

}  // namespace

void sgd_step_cpu(const SgdStep& args) {
  std::vector<const TensorTable*> tables;
  std::vector<Update> updates;
  for (const SgdGroup& group : args.groups) {
    const bool has_momentum = group.momentum != 0.0;
    tables.push_back(group.tensors.get());
    updates.push_back(group.tensors->dtype == DType::kFloat32 ? update_of<float>(has_momentum)
                                                              : update_of<BFloat16>(has_momentum));
  }
  for_each_share(tables, args.threads, [&](uint32_t g, uint32_t t, int64_t begin, int64_t end) {
    updates[g](args.groups[g], t, begin, end);
  });
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
