// adam's arithmetic for one element, or for one vector of them: see adam.h for the formula.
#pragma once

#include <cmath>

#include "common/host_device.h"

namespace fastmodel {

// What does not depend on the element. Computed in double, as PyTorch does.
struct AdamScalars {
  float keep;  // of the parameter, under decoupled decay
  float weight_decay;
  float new_first, keep_first;
  float new_second, keep_second;
  float eps;
  float step_size;            // lr / (1 - beta1^t)
  float inverse_sqrt_second;  // 1 / sqrt(1 - beta2^t)
  bool is_l2, is_new_light;
};

struct AdamCorrection {
  float step_size, inverse_sqrt_second;
};

FASTMODEL_HOST_DEVICE AdamCorrection adam_correction(double lr, double beta1, double beta2,
                                                     float step) {
  const double first = 1.0 - std::pow(beta1, static_cast<double>(step));
  const double second = 1.0 - std::pow(beta2, static_cast<double>(step));
  return {static_cast<float>(lr / first), static_cast<float>(1.0 / std::sqrt(second))};
}

FASTMODEL_HOST_DEVICE AdamScalars adam_scalars(double lr, double beta1, double beta2, double eps,
                                               double weight_decay, bool is_decoupled,
                                               const AdamCorrection& correction) {
  AdamScalars c;
  c.keep = is_decoupled ? static_cast<float>(1.0 - lr * weight_decay) : 1.0f;
  c.weight_decay = static_cast<float>(weight_decay);
  c.new_first = static_cast<float>(1.0 - beta1);
  c.keep_first = 1.0f - c.new_first;
  c.new_second = static_cast<float>(1.0 - beta2);
  c.keep_second = static_cast<float>(beta2);
  c.eps = static_cast<float>(eps);
  c.step_size = correction.step_size;
  c.inverse_sqrt_second = correction.inverse_sqrt_second;
  // A decay of 0 is left out rather than multiplied: 0 * inf is NaN.
  c.is_l2 = weight_decay != 0.0 && !is_decoupled;
  c.is_new_light = c.new_first < 0.5f;
  return c;
}

// The new moments of a gradient that is unscaled, clipped and of the right sign.
template <typename V>
FASTMODEL_HOST_DEVICE void adam_moments(const AdamScalars& c, V param, V grad, V& first,
                                        V& second) {
  if (c.is_l2) grad += param * c.weight_decay;
  // As torch.lerp: from the end that weighs more, so that infinities meet the same fate.
  first =
      c.is_new_light ? first + (grad - first) * c.new_first : grad - (grad - first) * c.keep_first;
  second = second * c.keep_second + (grad * c.new_second) * grad;
}

// The new parameter; `root` is the square root of v or vmax.
template <typename V>
FASTMODEL_HOST_DEVICE V adam_param(const AdamScalars& c, V param, V first, V root) {
  const V denominator = root * c.inverse_sqrt_second + c.eps;
  return param * c.keep - (first * c.step_size) / denominator;
}

}  // namespace fastmodel
