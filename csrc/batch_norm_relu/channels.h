// What is known of a channel: its statistics as they are gathered, and the numbers that its pixels
// are multiplied by.
#pragma once

#include <cmath>

#include "batch_norm_relu/batch_norm_relu.h"
#include "common/vectors.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Mean and summed squared distance from it, of `count` values.
struct Moments {
  double count = 0.0;
  double mean = 0.0;
  double squares = 0.0;
};

// The moments of `count` values of which the sums of (x - shift) and (x - shift)^2 are known. Exact
// where the shift is near the mean: what is taken from the squares is then small.
FASTMODEL_INLINE Moments shifted(double count, double shift, double sum, double squares) {
  return {count, shift + sum / count, squares - sum * sum / count};
}

// Chan, Golub and LeVeque: the moments of both sets together. Nothing cancels.
FASTMODEL_INLINE Moments together(const Moments& a, const Moments& b) {
  const double count = a.count + b.count, distance = b.mean - a.mean;
  const double share = b.count / count;
  return {count, a.mean + distance * share,
          a.squares + b.squares + distance * distance * share * a.count};
}

inline void store_moments(const Moments& moments, const BatchNormReluForward& a, int64_t c) {
  a.mean[c] = static_cast<float>(moments.mean);
  a.var[c] = static_cast<float>(moments.squares / moments.count);
}

// Forward and backward make a channel's numbers here, both from float32 statistics: so they agree
// to the bit on which outputs live.
struct Channel {
  float mean, scale, bias;
  double inverse_std;
};

inline Channel channel_of(const BatchNormReluProblem& p, float mean, float var, int64_t c) {
  const double inverse_std = 1.0 / std::sqrt(static_cast<double>(var) + p.eps);
  const double weight = p.weight == nullptr ? 1.0 : p.weight[c];
  return {mean, static_cast<float>(weight * inverse_std), p.bias == nullptr ? 0.0f : p.bias[c],
          inverse_std};
}

// Sums over the pixels of a channel that backward needs.
struct GradientSums {
  double grad = 0.0;      // of g
  double distance = 0.0;  // of g * (x - mean)
};

// grad_x = scale * g + (x - mean) * slope + constant, in training.
struct GradientLine {
  float slope, constant;
};

inline GradientLine gradient_line(const Channel& channel, const GradientSums& sums, double count) {
  const double scale = channel.scale, inverse_std = channel.inverse_std;
  return {static_cast<float>(-scale * inverse_std * inverse_std * sums.distance / count),
          static_cast<float>(-scale * sums.grad / count)};
}

inline void store_gradients(const BatchNormReluBackward& a, const Channel& channel,
                            const GradientSums& sums, int64_t c) {
  if (a.grad_weight != nullptr) {
    a.grad_weight[c] = static_cast<float>(sums.distance * channel.inverse_std);
  }
  if (a.grad_bias != nullptr) a.grad_bias[c] = static_cast<float>(sums.grad);
}

// Are there sums to take, or is each pixel's gradient its own?
inline bool needs_sums(const BatchNormReluBackward& a) {
  const bool feeds_x = a.problem.is_training && a.grad_x != nullptr;
  return feeds_x || a.grad_weight != nullptr || a.grad_bias != nullptr;
}

// A channel's numbers in every lane, or those of neighbouring channels side by side.
struct ChannelVec {
  Vec mean, scale, bias;
};

FASTMODEL_INLINE Vec before_relu(Vec distance, const ChannelVec& channel) {
  return distance * channel.scale + channel.bias;
}

// grad where the output lives: NaN does.
FASTMODEL_INLINE Vec alive(Vec grad, Vec distance, const ChannelVec& channel) {
  return before_relu(distance, channel) <= 0.0f ? Vec{} : grad;
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
