// conv_relu_maxpool on the CPU: the convolution's output never leaves the registers.
//
// Forward keeps the pixels of a pool window x a block of output channels in accumulators, takes the
// maximum and its position there, and writes one value and one byte per window: pixels that no
// window covers are not computed. Where windows share pixels it goes by rows (band_forward.h).
// Backward sums over live pairs (common/conv_backward.h).
//
// FLOPs forward: 2 * N * PP * PQ * window * K * C * R * S. Bytes: x once, weight once, out and a
// quarter of it again for the bytes; arithmetic intensity is far above the ridge, so the FMA ports
// are the floor.
#include "common/conv_backward.h"
#include "common/conv_forward.h"
#include "common/share_sums.h"
#include "conv_relu_maxpool/band_backward.h"
#include "conv_relu_maxpool/band_forward.h"
#include "conv_relu_maxpool/conv_relu_maxpool.h"
#include "conv_relu_maxpool/window_max.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// One row of 2 x 2 windows over `base`, `step` floats apart, of a filter so short that it stays in
// registers: pixel j of a window begins at pixel[j], run r of its patch at run[r] from there. False
// if a NaN was met; then nothing of the row holds.
template <int kVecs, int kRuns, int kLength, typename T>
__attribute__((noinline)) bool square_windows(const float* base, int64_t step, int64_t count,
                                              const int64_t* pixel, const int64_t* run,
                                              const float* weight, const float* bias, T* out,
                                              uint8_t* argmax, int64_t stride, int last_lanes) {
  Vec w[kRuns][kLength][kVecs];
  FASTMODEL_UNROLL
  for (int i = 0; i < kRuns * kLength * kVecs; ++i) {
    w[i / (kLength * kVecs)][i / kVecs % kLength][i % kVecs] = load(weight + i * kLanes);
  }
  int64_t run_at[kRuns];
  std::copy(run, run + kRuns, run_at);
  const float* at[4] = {base + pixel[0], base + pixel[1], base + pixel[2], base + pixel[3]};
  uint32_t unordered = 0;
  for (int64_t q = 0; q < count; ++q, out += stride, argmax += stride) {
    Vec acc[4][kVecs];
    FASTMODEL_UNROLL
    for (int j = 0; j < 4; ++j) {
      FASTMODEL_UNROLL
      for (int v = 0; v < kVecs; ++v) acc[j][v] = load(bias + v * kLanes);
    }
    FASTMODEL_UNROLL
    for (int r = 0; r < kRuns; ++r) {
      FASTMODEL_UNROLL
      for (int e = 0; e < kLength; ++e) {
        FASTMODEL_UNROLL
        for (int j = 0; j < 4; ++j) {
          const float* patch = at[j] + run_at[r];
          const Vec x = broadcast(patch[e]);
          FASTMODEL_UNROLL
          for (int v = 0; v < kVecs; ++v) acc[j][v] += x * w[r][e][v];
        }
      }
    }
    FASTMODEL_UNROLL
    for (int j = 0; j < 4; ++j) at[j] += step;
    WindowMax<kVecs> best;
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      unordered |= unordered_lanes(acc[0][v], acc[1][v]) | unordered_lanes(acc[2][v], acc[3][v]);
      best.take_numbers(v, acc[0][v], acc[1][v], acc[2][v], acc[3][v]);
      best.write(v, 4, out + v * kLanes, argmax + v * kLanes, v + 1 < kVecs ? kLanes : last_lanes);
    }
  }
  return unordered == 0;
}

template <int kVecs, int kRuns, int kLength, typename T>
void forward(const ConvReluMaxpoolForward& a) {
  const ConvShape& shape = a.shape;
  const PackedFilters filters =
      pack_filters(static_cast<const T*>(a.weight), a.weight_stride, static_cast<const T*>(a.bias),
                   shape, kVecs, a.threads);
  const Runs runs = filter_runs(shape);
  const int64_t window = shape.window();
  std::vector<int64_t> offset;
  for (int64_t j = 0; j < window; ++j) {
    offset.push_back(pixel_offset(shape, j / shape.pool_s, j % shape.pool_s));
  }
  const int64_t step = shape.pool_stride_h * shape.stride_h;
  const int64_t span = (shape.pool_r - 1) * shape.stride_h + (shape.r - 1) * shape.dilation_h + 1;
  const int32_t dead = static_cast<int32_t>(window);

  const auto row = [&](const float* image, int64_t n, int64_t pp) {
    for (int64_t block = 0; block < filters.blocks; ++block) {
      const float* weight = filters.weight.get() + block * shape.patch() * filters.block;
      const float* bias = filters.bias.get() + block * filters.block;
      const int64_t first = block * filters.block;
      const int64_t row_at = (n * shape.pp + pp) * shape.pq * shape.k + first;
      if constexpr (kRuns > 0 && kVecs <= 2) {
        const int64_t left = shape.k - first - (kVecs - 1) * kLanes;
        if (window == 4 && left > 0 &&
            square_windows<kVecs, kRuns, kLength>(
                image + pixel_offset(shape, pp * shape.pool_stride_h, 0),
                pixel_offset(shape, 0, shape.pool_stride_w), shape.pq, offset.data(),
                runs.offset.data(), weight, bias, static_cast<T*>(a.out) + row_at,
                a.argmax + row_at, shape.k, static_cast<int>(std::min<int64_t>(kLanes, left)))) {
          continue;
        }
      }
      for (int64_t pq = 0; pq < shape.pq; ++pq) {
        const float* base =
            image + pixel_offset(shape, pp * shape.pool_stride_h, pq * shape.pool_stride_w);
        WindowMax<kVecs> best;
        int64_t j = 0;
        for (; j + 4 <= window; j += 4) {
          Vec acc[4][kVecs];
          conv_tile<4, kVecs, kRuns, kLength>(
              {base + offset[j], base + offset[j + 1], base + offset[j + 2], base + offset[j + 3]},
              runs, weight, bias, acc);
          best.take(acc, j);
        }
        for (; j < window; ++j) {
          Vec acc[1][kVecs];
          conv_tile<1, kVecs, kRuns, kLength>({base + offset[j]}, runs, weight, bias, acc);
          best.take(acc, j);
        }
        const int64_t at = row_at + pq * shape.k;
        for (int v = 0; v < kVecs; ++v) {
          const int lanes =
              static_cast<int>(std::min<int64_t>(kLanes, shape.k - first - v * kLanes));
          if (lanes <= 0) break;
          best.write(v, dead, static_cast<T*>(a.out) + at + v * kLanes, a.argmax + at + v * kLanes,
                     lanes);
        }
      }
    }
  };
  for_each_row(static_cast<const T*>(a.x), a.x_stride, shape, shape.pp, step, span, a.threads, row);
}

template <int kVecs, int kRuns, int kLength, typename T>
void forward_by_windows(const ConvReluMaxpoolForward& a) {
  a.shape.is_tiled() ? forward<kVecs, kRuns, kLength, T>(a)
                     : band_forward<kVecs, kRuns, kLength, T>(a);
}

template <int kRuns, int kLength, typename T>
void forward_of(const ConvReluMaxpoolForward& a) {
  switch (filter_vectors(a.shape.k)) {
    case 1:
      return forward_by_windows<1, kRuns, kLength, T>(a);
    case 2:
      return forward_by_windows<2, kRuns, kLength, T>(a);
    default:
      return forward_by_windows<kMostVecs, kRuns, kLength, T>(a);
  }
}

// A 3 x 3 filter over one channel is so short that loops over it would cost as much as its FMAs.
template <typename T>
void forward_any(const ConvReluMaxpoolForward& a) {
  const bool is_short =
      a.shape.c == 1 && a.shape.r == 3 && a.shape.s == 3 && a.shape.dilation_w == 1;
  is_short ? forward_of<3, 3, T>(a) : forward_of<0, 0, T>(a);
}

template <typename T>
void backward(const ConvReluMaxpoolBackward& a) {
  if (!a.shape.is_tiled()) return band_backward<T>(a);
  const int64_t plane = a.shape.pp * a.shape.pq * a.shape.k;
  const ConvGradients<T> wanted{static_cast<T*>(a.grad_x), a.grad_x_stride,
                                static_cast<T*>(a.grad_weight), a.grad_weight_stride,
                                static_cast<T*>(a.grad_bias)};
  conv_gradients(static_cast<const T*>(a.x), a.x_stride, static_cast<const T*>(a.weight),
                 a.weight_stride, a.shape, wanted, a.threads,
                 [&](int64_t n, int, const float* image, float* grad_x, LiveGradients* gradients) {
                   gradients->add(image, static_cast<const T*>(a.grad) + n * plane,
                                  a.argmax + n * plane, grad_x);
                 });
}

template <typename T>
void pool(const ConvReluMaxpoolPool& a) {
  const ConvShape& shape = a.shape;
  parallel_for(shape.n * shape.pp, a.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const T* image =
          static_cast<const T*>(a.dense) + task / shape.pp * shape.p * shape.q * shape.k;
      const auto row = [&](int64_t p) { return image + p * shape.q * shape.k; };
      const int64_t at = task * shape.pq * shape.k;
      pool_row(shape, task % shape.pp, row, shape.k, static_cast<T*>(a.out) + at, a.argmax + at);
    }
  });
}

// One image after the other: zeroes it, adds each window's gradient where its maximum was, sums the
// bias.
template <typename T>
void scatter(const ConvReluMaxpoolScatter& a) {
  const ConvShape& shape = a.shape;
  const int64_t k_count = shape.k;
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(a.threads, shape.n));
  const ShareSums sums(shares, k_count);
  parallel_for(shape.n, a.threads, [&](int64_t begin, int64_t end, int thread) {
    float* const own = sums.of(thread);
    for (int64_t n = begin; n < end; ++n) {
      T* image = static_cast<T*>(a.dense) + n * shape.p * shape.q * k_count;
      std::memset(image, 0, shape.p * shape.q * k_count * sizeof(T));
      for (int64_t p = 0; p < shape.pp; ++p) {
        for (int64_t q = 0; q < shape.pq; ++q) {
          const int64_t at = ((n * shape.pp + p) * shape.pq + q) * k_count;
          const Window window(shape, p, q);
          for (int64_t k = 0; k < k_count; k += kLanes) {
            const int lanes = static_cast<int>(std::min<int64_t>(kLanes, k_count - k));
            const Vec g = load_first(static_cast<const T*>(a.grad) + at + k, lanes);
            const IVec slot = load_bytes(a.argmax + at + k, lanes);
            for (int64_t r = window.begin_r; r < window.end_r; ++r) {
              for (int64_t s = window.begin_s; s < window.end_s; ++s) {
                const int64_t pixel = (window.h + r) * shape.q + window.w + s;
                T* target = image + pixel * k_count + k;
                const int32_t here = static_cast<int32_t>(r * shape.pool_s + s);
                const Vec live = slot == here ? g : Vec{};
                store_first(target, load_first(target, lanes) + live, lanes);
              }
            }
            const Vec live = slot == static_cast<int32_t>(shape.window()) ? Vec{} : g;
            store_first(own + k, load_first(own + k, lanes) + live, lanes);
          }
        }
      }
    }
  });
  if (a.grad_bias == nullptr) return;
  for (int64_t k = 0; k < k_count; ++k) {
    from_float(sums.total(k), static_cast<T*>(a.grad_bias) + k);
  }
}

}  // namespace

void conv_relu_maxpool_forward_cpu(const ConvReluMaxpoolForward& args) {
  args.dtype == DType::kFloat32 ? forward_any<float>(args) : forward_any<BFloat16>(args);
}

void conv_relu_maxpool_backward_cpu(const ConvReluMaxpoolBackward& args) {
  args.dtype == DType::kFloat32 ? backward<float>(args) : backward<BFloat16>(args);
}

void conv_relu_maxpool_pool_cpu(const ConvReluMaxpoolPool& args) {
  args.dtype == DType::kFloat32 ? pool<float>(args) : pool<BFloat16>(args);
}

void conv_relu_maxpool_scatter_cpu(const ConvReluMaxpoolScatter& args) {
  args.dtype == DType::kFloat32 ? scatter<float>(args) : scatter<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
