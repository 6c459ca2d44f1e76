// sgd's arithmetic for one element, or for one vector of them: see sgd.h for the formula.
#pragma once

#include "common/host_device.h"

namespace fastmodel {

// What does not depend on the element.
struct SgdScalars {
  float lr, momentum, undamped, weight_decay;
  bool is_decay, is_nesterov;
};

FASTMODEL_HOST_DEVICE SgdScalars sgd_scalars(double lr, double momentum, double dampening,
                                             double weight_decay, bool is_nesterov) {
  SgdScalars c;
  c.lr = static_cast<float>(lr);
  c.momentum = static_cast<float>(momentum);
  c.undamped = static_cast<float>(1.0 - dampening);
  c.weight_decay = static_cast<float>(weight_decay);
  // A decay of 0 is left out rather than multiplied: 0 * inf is NaN.
  c.is_decay = weight_decay != 0.0;
  c.is_nesterov = is_nesterov;
  return c;
}

// The direction of a gradient that is unscaled, clipped and of the right sign.
template <typename V>
FASTMODEL_HOST_DEVICE V sgd_direction(const SgdScalars& c, V param, V grad) {
  return c.is_decay ? grad + param * c.weight_decay : grad;
}

// The new momentum buffer.
template <typename V>
FASTMODEL_HOST_DEVICE V sgd_buffer(const SgdScalars& c, V buffer, V direction) {
  return buffer * c.momentum + direction * c.undamped;
}

// The direction that momentum makes of it.
template <typename V>
FASTMODEL_HOST_DEVICE V sgd_momentum(const SgdScalars& c, V buffer, V direction) {
  return c.is_nesterov ? direction + buffer * c.momentum : buffer;
}

}  // namespace fastmodel
