// batch_norm_relu over contiguous images: channel by channel over the batch. A channel's planes are
// read from memory once; the later sweeps over them find them in L2.
#pragma once

#include <algorithm>

#include "batch_norm_relu/channels.h"
#include "common/threads.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Values of a channel that are summed in float32 before float64 takes over: 128 additions a lane
// with AVX-512. 32 KiB of float32: the first chunk's second sweep finds them in L1.
constexpr int64_t kPlaneChunk = 8192;

// The planes of one channel: images * pixels values, a plane every `stride`.
struct Planes {
  int64_t images, pixels, stride;
};

inline Planes planes_of(const BatchNormReluProblem& p) {
  return {p.images, p.pixels, p.channels * p.pixels};
}

// Calls body(image, last_image, begin, end) for every chunk of a channel: pixels [begin, end) of
// some images, whole planes or a part of one.
template <typename Body>
void for_each_chunk(const Planes& planes, const Body& body) {
  const int64_t images = std::max<int64_t>(1, kPlaneChunk / planes.pixels);
  const int64_t pixels = std::min(kPlaneChunk, planes.pixels);
  for (int64_t image = 0; image < planes.images; image += images) {
    const int64_t last = std::min(image + images, planes.images);
    for (int64_t begin = 0; begin < planes.pixels; begin += pixels) {
      const int64_t end = std::min(begin + pixels, planes.pixels);
      body(image, last, begin, end);
    }
  }
}

// Calls body(offset, lanes, sum) for the vectors of a chunk. `sum` goes round kSums, which keeps as
// many chains of additions going; lanes is kLanes but for the last of a plane.
constexpr int kSums = 4;

template <typename Body>
FASTMODEL_INLINE void for_each_vector(const Planes& planes, int64_t image, int64_t last_image,
                                      int64_t begin, int64_t end, const Body& body) {
  for (; image < last_image; ++image) {
    const int64_t plane = image * planes.stride;
    int64_t i = begin;
    for (; i + kSums * kLanes <= end; i += kSums * kLanes) {
      FASTMODEL_UNROLL
      for (int s = 0; s < kSums; ++s) body(plane + i + s * kLanes, kLanes, s);
    }
    for (; i + kLanes <= end; i += kLanes) body(plane + i, kLanes, 0);
    if (i < end) body(plane + i, static_cast<int>(end - i), 1);
  }
}

FASTMODEL_INLINE float sum_of(const Vec (&sums)[kSums]) {
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <typename T>
Moments moments_of(const T* x, const Planes& planes) {
  Moments moments;
  for_each_chunk(planes, [&](int64_t image, int64_t last, int64_t begin, int64_t end) {
    const double count = static_cast<double>((last - image) * (end - begin));
    float shift = static_cast<float>(moments.mean);
    if (moments.count == 0.0) {
      Vec totals[kSums] = {};
      for_each_vector(planes, image, last, begin, end, [&](int64_t at, int lanes, int s) {
        totals[s] += load_first(x + at, lanes);
      });
      shift = static_cast<float>(sum_of(totals) / count);
    }
    Vec sums[kSums] = {}, squares[kSums] = {};
    for_each_vector(planes, image, last, begin, end, [&](int64_t at, int lanes, int s) {
      const Vec d = keep_first(load_first(x + at, lanes) - shift, lanes);
      sums[s] += d;
      squares[s] += d * d;
    });
    const Moments own = shifted(count, shift, sum_of(sums), sum_of(squares));
    moments = together(moments, own);
  });
  return moments;
}

inline ChannelVec spread(const Channel& channel) {
  return {broadcast(channel.mean), broadcast(channel.scale), broadcast(channel.bias)};
}

template <typename T>
void forward_planes(const BatchNormReluForward& a, int threads) {
  const BatchNormReluProblem& p = a.problem;
  const Planes planes = planes_of(p);
  parallel_for(p.channels, threads, [&](int64_t first, int64_t last, int) {
    for (int64_t c = first; c < last; ++c) {
      const T* x = static_cast<const T*>(p.x) + c * p.pixels;
      T* out = static_cast<T*>(a.out) + c * p.pixels;
      if (p.is_training) store_moments(moments_of(x, planes), a, c);
      const ChannelVec channel = spread(channel_of(p, a.mean[c], a.var[c], c));
      for_each_vector(planes, 0, planes.images, 0, planes.pixels, [&](int64_t at, int lanes, int) {
        const Vec d = load_first(x + at, lanes) - channel.mean;
        store_first(out + at, relu(before_relu(d, channel)), lanes);
      });
    }
  });
}

template <typename T>
GradientSums gradient_sums(const T* x, const T* grad, const Planes& planes,
                           const ChannelVec& channel) {
  GradientSums total;
  for_each_chunk(planes, [&](int64_t image, int64_t last, int64_t begin, int64_t end) {
    Vec sums[kSums] = {}, distances[kSums] = {};
    for_each_vector(planes, image, last, begin, end, [&](int64_t at, int lanes, int s) {
      const Vec d = load_first(x + at, lanes) - channel.mean;
      const Vec g = alive(load_first(grad + at, lanes), d, channel);
      sums[s] += g;
      distances[s] += g * d;
    });
    total.grad += sum_of(sums);
    total.distance += sum_of(distances);
  });
  return total;
}

template <typename T>
void backward_planes(const BatchNormReluBackward& a, int threads) {
  const BatchNormReluProblem& p = a.problem;
  const Planes planes = planes_of(p);
  const double count = static_cast<double>(p.images * p.pixels);
  parallel_for(p.channels, threads, [&](int64_t first, int64_t last, int) {
    for (int64_t c = first; c < last; ++c) {
      const T* x = static_cast<const T*>(p.x) + c * p.pixels;
      const T* grad = static_cast<const T*>(a.grad) + c * p.pixels;
      const Channel own = channel_of(p, a.mean[c], a.var[c], c);
      const ChannelVec channel = spread(own);
      GradientSums sums;
      if (needs_sums(a)) {
        sums = gradient_sums(x, grad, planes, channel);
        store_gradients(a, own, sums, c);
      }
      if (a.grad_x == nullptr) continue;
      T* grad_x = static_cast<T*>(a.grad_x) + c * p.pixels;
      const auto sweep = [&](const auto& rest) {
        for_each_vector(planes, 0, planes.images, 0, planes.pixels,
                        [&](int64_t at, int lanes, int) {
                          const Vec d = load_first(x + at, lanes) - channel.mean;
                          const Vec g = alive(load_first(grad + at, lanes), d, channel);
                          store_first(grad_x + at, rest(g * channel.scale, d), lanes);
                        });
      };
      if (p.is_training) {
        const GradientLine line = gradient_line(own, sums, count);
        const Vec slope = broadcast(line.slope), constant = broadcast(line.constant);
        sweep([&](Vec g, Vec d) { return g + (d * slope + constant); });
      } else {
        sweep([](Vec g, Vec) { return g; });
      }
    }
  });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
