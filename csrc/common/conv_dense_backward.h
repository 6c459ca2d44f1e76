// Gradients of a convolution behind a ReLU, every pixel counted.
//
//   g = grad where out is alive, else 0                                     (N, P, Q, K)
//   grad_bias[k]      = sum over pixels of g[pixel][k]
//   grad_weight[k][e] = sum over pixels of g[pixel][k] * x[pixel's patch + e]
//   grad_x[pixel's patch + e] += sum over k of g[pixel][k] * weight[k][e]
// A block of pixels x channels of g is masked into a panel that stays in L1 (and written out, where
// somebody else computes grad_x). For grad_weight the panel's vectors over k meet broadcasts of the
// patch in registers, for grad_x its broadcasts meet vectors of the filters.
//
// FLOPs: 2 * N * P * Q * K * C * R * S for each product. Bytes: grad, out, x and grad_x once, g
// once where it is wanted. A tile of 6 x 4 vectors runs 24 FMAs on 10 loads: bound by the FMA
// ports. grad_x is added up patch by patch in memory, R * S additions an element: cheap for 1 x 1
// filters and beside many output channels.
#pragma once

#include <memory>
#include <vector>

#include "common/conv_forward.h"
#include "common/conv_image.h"
#include "common/threads.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

template <typename T>
struct DenseGradients {
  const T* grad;  // (N, P, Q, K), as out
  const T* out;
  const T* x;
  Strides x_stride;
  const T* weight;
  Strides weight_stride;
  T* masked;  // g; null for each result that is not wanted
  T* grad_x;
  Strides grad_x_stride;
  T* grad_weight;
  Strides grad_weight_stride;
  T* grad_bias;
};

// Accumulators of a tile: 24 of 32 registers, 12 of 16 before AVX-512; one side is kVecs vectors,
// the other at most 12 broadcasts.
#if defined(__AVX512F__)
constexpr int kDenseTile = 24;
#else
constexpr int kDenseTile = 12;
#endif
template <int kVecs>
constexpr int kTileBroadcasts = kDenseTile / kVecs < 12 ? kDenseTile / kVecs : 12;

// A panel of this many pixels x kMostVecs vectors leaves room in an L1 of 48 KiB.
constexpr int64_t kPanelPixels = 144;

// Pixels of one output row, or of several that follow one another in x in equal steps.
struct PixelStrip {
  const float* x;  // the first pixel's patch
  int64_t pixels;
};

// How the work is cut: the threads form a grid of output channel shares x pixel shares.
struct DenseGrid {
  int64_t channel_shares, pixel_shares;
};

// Every channel share reads all of x, every pixel share adds up all of grad_weight; grad_x adds up
// over channels in place.
inline DenseGrid dense_grid(const ConvShape& shape, int64_t channel_blocks, int64_t pixel_tasks,
                            bool wants_grad_x, int threads) {
  const int64_t image = shape.n * shape.c * shape.h * shape.w, sums = shape.k * shape.patch();
  const int64_t most = wants_grad_x ? 1 : std::min<int64_t>(threads, channel_blocks);
  DenseGrid best{1, 1};
  int64_t least_time = INT64_MAX, least_bytes = INT64_MAX;
  for (int64_t channel = 1; channel <= most; ++channel) {
    const int64_t pixel = std::max<int64_t>(1, std::min(threads / channel, pixel_tasks));
    const int64_t time = ((channel_blocks + channel - 1) / channel) *
                         ((pixel_tasks + pixel - 1) / pixel);  // of the busiest thread
    const int64_t bytes = channel * image + 4 * pixel * sums;
    if (time < least_time || (time == least_time && bytes < least_bytes)) {
      least_time = time;
      least_bytes = bytes;
      best = {channel, pixel};
    }
  }
  return best;
}

// sums[element][vector] += over the strips' pixels of x[element] * panel[pixel][vector]; with
// is_first it starts from 0.
template <int kElements, int kVecs>
void weight_tile(const std::vector<PixelStrip>& strips, int64_t offset, int64_t step,
                 const float* panel, bool is_first, float* sums) {
  Vec acc[kElements][kVecs];
  FASTMODEL_UNROLL
  for (int i = 0; i < kElements; ++i) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      acc[i][v] = is_first ? Vec{} : load(sums + (i * kVecs + v) * kLanes);
    }
  }
  for (const PixelStrip& strip : strips) {
    const float* x = strip.x + offset;
    for (int64_t j = 0; j < strip.pixels; ++j) {
      Vec g[kVecs];
      FASTMODEL_UNROLL
      for (int v = 0; v < kVecs; ++v) g[v] = load(panel + v * kLanes);
      FASTMODEL_UNROLL
      for (int i = 0; i < kElements; ++i) {
        const Vec xi = broadcast(x[i]);
        FASTMODEL_UNROLL
        for (int v = 0; v < kVecs; ++v) acc[i][v] += xi * g[v];
      }
      x += step;
      panel += kVecs * kLanes;
    }
  }
  FASTMODEL_UNROLL
  for (int i = 0; i < kElements; ++i) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) store(sums + (i * kVecs + v) * kLanes, acc[i][v]);
  }
}

// Calls weight_tile for `elements` of at most kElements, one of the compiled sizes.
template <int kElements, int kVecs, typename... Args>
void weight_tail(int64_t elements, const Args&... args) {
  if constexpr (kElements > 0) {
    if (elements == kElements) return weight_tile<kElements, kVecs>(args...);
    weight_tail<kElements - 1, kVecs>(elements, args...);
  }
}

// grad_x[pixel][0 .. vectors) += sum over a panel's channels of panel[pixel][channel] *
// weight[channel][vector], the last vector's first `lanes`; with is_first it is set.
template <int kPixels, int kVecs, int kBlock>
void image_tile(const float* panel, const float* weight, float* const* grad_x, int64_t offset,
                int lanes, bool is_first) {
  Vec acc[kPixels][kVecs];
  FASTMODEL_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) acc[i][v] = Vec{};
  }
  for (int k = 0; k < kBlock; ++k) {
    Vec w[kVecs];
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) w[v] = load(weight + v * kLanes);
    FASTMODEL_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      const Vec g = broadcast(panel[i * kBlock + k]);
      FASTMODEL_UNROLL
      for (int v = 0; v < kVecs; ++v) acc[i][v] += g * w[v];
    }
    weight += kVecs * kLanes;
  }
  FASTMODEL_UNROLL
  for (int i = 0; i < kPixels; ++i) {
    float* to = grad_x[i] + offset;
    FASTMODEL_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      const int n = v + 1 < kVecs ? kLanes : lanes;
      const Vec before = is_first ? Vec{} : load_first(to + v * kLanes, n);
      store_first(to + v * kLanes, before + acc[i][v], n);
    }
  }
}

// The vectors of a run, in tiles of at most kMostVecs: calls body(vectors, element, lanes), the
// first as a compile-time constant, the last those of the last vector.
template <typename Body>
void for_each_run_tile(int64_t length, const Body& body) {
  for (int64_t e = 0; e < length;) {
    const int64_t vectors = std::min<int64_t>(kMostVecs, (length - e + kLanes - 1) / kLanes);
    const int lanes =
        static_cast<int>(std::min<int64_t>(kLanes, length - e - (vectors - 1) * kLanes));
    if (vectors == 1) body(std::integral_constant<int, 1>(), e, lanes);
    if (vectors == 2) body(std::integral_constant<int, 2>(), e, lanes);
    if constexpr (kMostVecs == 4) {
      if (vectors == 3) body(std::integral_constant<int, 3>(), e, lanes);
      if (vectors == 4) body(std::integral_constant<int, 4>(), e, lanes);
    }
    e += vectors * kLanes;
  }
}

// Filters as [channel block][run][tile][channel in block][lane], filled up with zeros.
template <typename T>
std::unique_ptr<float[]> pack_filter_runs(const T* weight, const Strides& stride,
                                          const ConvShape& shape, const Runs& runs, int64_t block,
                                          int threads) {
  const int64_t blocks = (shape.k + block - 1) / block;
  const int64_t block_floats = runs.count * runs.vectors() * kLanes * block;
  std::unique_ptr<float[]> packed(new float[blocks * block_floats]);
  parallel_for(blocks, threads, [&](int64_t begin, int64_t end, int) {
    float* to = packed.get() + begin * block_floats;
    for (int64_t first = begin * block; first < end * block; first += block) {
      for (int64_t run = 0; run < runs.count; ++run) {
        for_each_run_tile(runs.length, [&](auto vectors, int64_t begin_e, int) {
          for (int64_t k = first; k < first + block; ++k) {
            for (int64_t e = begin_e; e < begin_e + vectors() * kLanes; ++e, ++to) {
              const int64_t tap = (run * runs.length + e) / shape.c, c = e % shape.c;
              *to = k < shape.k && e < runs.length
                        ? to_float(weight[k * stride.d0 + c * stride.d1 +
                                          tap / shape.s * stride.d2 + tap % shape.s * stride.d3])
                        : 0.0f;
            }
          }
        });
      }
    }
  });
  return packed;
}

// One thread's share of channels and pixels.
template <int kVecs, typename T>
class DenseShare {
 public:
  static constexpr int64_t kBlock = kVecs * kLanes;

  // packed_weight: null if grad_x is not wanted; sums likewise for grad_weight.
  DenseShare(const DenseGradients<T>& wanted, const ConvShape& shape, const Runs& runs,
             const float* packed_weight, float* sums, float* bias_sums)
      : wanted_(wanted),
        shape_(shape),
        runs_(runs),
        reader_(wanted.x, wanted.x_stride, shape),
        writer_(wanted.grad_x, wanted.grad_x_stride, shape),
        packed_weight_(packed_weight),
        sums_(sums),
        bias_sums_(bias_sums),
        block_rows_(std::max<int64_t>(1, kPanelPixels / shape.q)),
        slots_(std::min(shape.n, (block_rows_ + shape.p - 2) / shape.p + 1)),
        panel_(new float[block_rows_ * shape.q * kBlock]),
        x_scratch_(new float[slots_ * reader_.scratch_floats()]),
        grad_x_scratch_(new float[slots_ * writer_.scratch_floats()]) {
    strips_.reserve(block_rows_);
    grad_x_pixels_.resize(writer_.is_wanted() ? block_rows_ * shape.q : 0);
  }

  // Takes output rows [begin, end) of all images and channel blocks [first, last). With grad_x the
  // rows are those of whole images, unless each pixel is written once.
  void add(int64_t begin, int64_t end, int64_t first, int64_t last) {
    const int64_t share_begin = begin;
    for (; begin < end; begin += block_rows_) {
      const int64_t rows = std::min(block_rows_, end - begin), pixels = rows * shape_.q;
      if (sums_ != nullptr) find_strips(begin, rows);
      if (writer_.is_wanted()) find_grad_x(begin, rows);
      for (int64_t block = first; block < last; ++block) {
        fill_panel(begin * shape_.q, pixels, block);
        const bool is_last = block + 1 == last;
        expect_panel((is_last ? begin + block_rows_ : begin) * shape_.q, end * shape_.q,
                     is_last ? first : block + 1);
        if (sums_ != nullptr) add_grad_weight(block, begin == share_begin);
        if (writer_.is_wanted()) add_grad_x(block, pixels);
      }
      if (writer_.is_wanted()) finish_grad_x(begin, rows);
    }
  }

  // Does every pixel of grad_x belong to one patch?
  static bool writes_once(const DenseGradients<T>& wanted, const ConvShape& shape) {
    return is_padded_image<T>(shape, wanted.grad_x_stride) && shape.r * shape.s == 1 &&
           shape.stride_h == 1 && shape.stride_w == 1;
  }

 private:
  static constexpr int64_t kPrefetchPixels = 8;

  void find_strips(int64_t begin, int64_t rows) {
    const int64_t span = (shape_.r - 1) * shape_.dilation_h + 1;
    const int64_t step = shape_.stride_w * shape_.c;
    strips_.clear();
    for (int64_t row = begin; row < begin + rows;) {
      const int64_t n = row / shape_.p, p = row % shape_.p;
      const int64_t count = std::min(shape_.p - p, begin + rows - row);
      const float* image = read(n, p * shape_.stride_h, (p + count - 1) * shape_.stride_h + span);
      for (int64_t i = 0; i < count; ++i) {
        const float* x = image + pixel_offset(shape_, p + i, 0);
        if (!strips_.empty() && strips_.back().x + strips_.back().pixels * step == x) {
          strips_.back().pixels += shape_.q;
        } else {
          strips_.push_back({x, shape_.q});
        }
      }
      row += count;
    }
  }

  // The image with rows [begin, end) valid; rows that the last block has read are not read again.
  const float* read(int64_t n, int64_t begin, int64_t end) {
    const int64_t from = n == ready_image_ ? std::max(begin, ready_rows_) : begin;
    ready_image_ = n;
    ready_rows_ = std::max(from, end);
    return reader_.read(n, from, ready_rows_,
                        x_scratch_.get() + n % slots_ * reader_.scratch_floats());
  }

  float* grad_x_slot(int64_t n) {
    return grad_x_scratch_.get() + n % slots_ * writer_.scratch_floats();
  }

  void find_grad_x(int64_t begin, int64_t rows) {
    float** to = grad_x_pixels_.data();
    for (int64_t row = begin; row < begin + rows; ++row) {
      const int64_t n = row / shape_.p, p = row % shape_.p;
      const bool is_new = p == 0 && !writes_once(wanted_, shape_);
      float* image = is_new ? writer_.begin(n, grad_x_slot(n)) : writer_.target(n, grad_x_slot(n));
      for (int64_t q = 0; q < shape_.q; ++q) *to++ = image + pixel_offset(shape_, p, q);
    }
  }

  void finish_grad_x(int64_t begin, int64_t rows) {
    for (int64_t row = begin; row < begin + rows; ++row) {
      const int64_t n = row / shape_.p;
      if (row % shape_.p == shape_.p - 1) writer_.finish(n, grad_x_slot(n));
    }
  }

  void fill_panel(int64_t pixel, int64_t pixels, int64_t block) {
    const int64_t k = block * kBlock;
    int lanes[kVecs];
    Vec total[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      const int64_t left = shape_.k - k - v * kLanes;
      lanes[v] = static_cast<int>(std::max<int64_t>(0, std::min<int64_t>(kLanes, left)));
      total[v] = load(bias_sums_ + k + v * kLanes);
    }
    float* to = panel_.get();
    for (int64_t i = pixel; i < pixel + pixels; ++i) {
      const int64_t at = i * shape_.k + k;
      FASTMODEL_UNROLL
      for (int v = 0; v < kVecs; ++v) {
        const int64_t here = at + v * kLanes;
        const Vec y = load_first(wanted_.out + here, lanes[v]);
        const Vec g = y <= 0.0f ? Vec{} : load_first(wanted_.grad + here, lanes[v]);
        if (wanted_.masked != nullptr) store_first(wanted_.masked + here, g, lanes[v]);
        store(to + v * kLanes, g);
        total[v] += g;
      }
      to += kBlock;
    }
    for (int v = 0; v < kVecs; ++v) store(bias_sums_ + k + v * kLanes, total[v]);
  }

  // The panel to come is fetched into L2 a few pixels with every tile, so that memory works while
  // the tiles do.
  void expect_panel(int64_t pixel, int64_t end, int64_t block) {
    next_pixel_ = pixel;
    next_end_ = std::min(end, pixel + block_rows_ * shape_.q);
    next_k_ = block * kBlock;
  }

  void prefetch_panel() {
    const int64_t end = std::min(next_end_, next_pixel_ + kPrefetchPixels);
    for (; next_pixel_ < end; ++next_pixel_) {
      const int64_t at = next_pixel_ * shape_.k + next_k_;
      FASTMODEL_UNROLL
      for (int v = 0; v < kVecs; ++v) {
        __builtin_prefetch(wanted_.grad + at + v * kLanes, 0, 2);
        __builtin_prefetch(wanted_.out + at + v * kLanes, 0, 2);
      }
    }
  }

  void add_grad_weight(int64_t block, bool is_first) {
    constexpr int kElements = kTileBroadcasts<kVecs>;
    const int64_t step = shape_.stride_w * shape_.c;
    float* sums = sums_ + block * shape_.patch() * kBlock;
    for (const int64_t offset : runs_.offset) {
      int64_t e = 0;
      for (; e + kElements <= runs_.length; e += kElements) {
        prefetch_panel();
        weight_tile<kElements, kVecs>(strips_, offset + e, step, panel_.get(), is_first, sums);
        sums += kElements * kBlock;
      }
      weight_tail<kElements - 1, kVecs>(runs_.length - e, strips_, offset + e, step, panel_.get(),
                                        is_first, sums);
      sums += (runs_.length - e) * kBlock;
    }
  }

  void add_grad_x(int64_t block, int64_t pixels) {
    const bool is_first = block == 0 && writes_once(wanted_, shape_);
    const float* weight = packed_weight_ + block * kBlock * runs_.count * runs_.vectors() * kLanes;
    for (const int64_t offset : runs_.offset) {
      for_each_run_tile(runs_.length, [&](auto vectors, int64_t e, int lanes) {
        constexpr int kPixels = kTileBroadcasts<vectors()>;
        const float* panel = panel_.get();
        float* const* to = grad_x_pixels_.data();
        int64_t i = 0;
        for (; i + kPixels <= pixels; i += kPixels) {
          prefetch_panel();
          image_tile<kPixels, vectors(), kBlock>(panel + i * kBlock, weight, to + i, offset + e,
                                                 lanes, is_first);
        }
        for (; i + 2 <= pixels; i += 2) {
          image_tile<2, vectors(), kBlock>(panel + i * kBlock, weight, to + i, offset + e, lanes,
                                           is_first);
        }
        for (; i < pixels; ++i) {
          image_tile<1, vectors(), kBlock>(panel + i * kBlock, weight, to + i, offset + e, lanes,
                                           is_first);
        }
        weight += vectors() * kLanes * kBlock;
      });
    }
  }

  const DenseGradients<T>& wanted_;
  const ConvShape& shape_;
  const Runs& runs_;
  ImageReader<T> reader_;
  ImageWriter<T> writer_;
  const float* packed_weight_;
  float* sums_;                 // [channel block][patch element][channel in block], or null
  float* bias_sums_;            // [channel], filled up to whole blocks
  int64_t block_rows_, slots_;  // of a block: output rows, images that it may touch
  std::unique_ptr<float[]> panel_, x_scratch_, grad_x_scratch_;
  int64_t ready_image_ = -1, ready_rows_ = 0;
  int64_t next_pixel_ = 0, next_end_ = 0, next_k_ = 0;  // of the panel to come, what is left
  std::vector<PixelStrip> strips_;
  std::vector<float*> grad_x_pixels_;  // each pixel's patch
};

// Adds the shares' sums up into (K, C, R, S). sums: [share][channel block][patch element][channel].
template <typename T>
void store_grad_weight(const float* sums, int64_t shares, int64_t share_floats, int64_t block,
                       const DenseGradients<T>& wanted, const ConvShape& shape, int threads) {
  const Strides& stride = wanted.grad_weight_stride;
  parallel_for(shape.k, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin; k < end; ++k) {
      const float* filter = sums + k / block * block * shape.patch() + k % block;
      for (int64_t tap = 0; tap < shape.r * shape.s; ++tap) {
        T* to = wanted.grad_weight + k * stride.d0 + tap / shape.s * stride.d2 +
                tap % shape.s * stride.d3;
        for (int64_t c = 0; c < shape.c; ++c) {
          float total = 0.0f;
          for (int64_t i = 0; i < shares; ++i) {
            total += filter[i * share_floats + (tap * shape.c + c) * block];
          }
          from_float(total, to + c * stride.d1);
        }
      }
    }
  });
}

template <int kVecs, typename T>
void dense_backward_of(const DenseGradients<T>& wanted, const ConvShape& shape, int threads) {
  using Share = DenseShare<kVecs, T>;
  constexpr int64_t kBlock = Share::kBlock;
  const Runs runs = filter_runs(shape);
  const int64_t blocks = (shape.k + kBlock - 1) / kBlock;
  const bool wants_x = wanted.grad_x != nullptr;
  const bool by_images = wants_x && !Share::writes_once(wanted, shape);
  const int64_t unit = by_images ? shape.p : 1, units = by_images ? shape.n : shape.n * shape.p;
  const DenseGrid grid = dense_grid(shape, blocks, units, wants_x, threads);
  const int64_t weight_floats = wanted.grad_weight != nullptr ? blocks * kBlock * shape.patch() : 0;
  const int64_t floats = weight_floats + blocks * kBlock;
  const std::unique_ptr<float[]> sums(new float[grid.pixel_shares * floats]);
  if (units == 0) std::fill(sums.get(), sums.get() + grid.pixel_shares * floats, 0.0f);
  std::unique_ptr<float[]> packed;
  if (wants_x) {
    packed = pack_filter_runs(wanted.weight, wanted.weight_stride, shape, runs, kBlock, threads);
  }
  for (int64_t i = 0; i < grid.pixel_shares; ++i) {
    float* bias = sums.get() + i * floats + weight_floats;
    std::fill(bias, bias + blocks * kBlock, 0.0f);
  }
  const int64_t tasks = units == 0 ? 0 : grid.channel_shares * grid.pixel_shares;
  parallel_for(tasks, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task % grid.channel_shares, pixel = task / grid.channel_shares;
      float* own = sums.get() + pixel * floats;
      Share share(wanted, shape, runs, packed.get(), weight_floats > 0 ? own : nullptr,
                  own + weight_floats);
      share.add(unit * (units * pixel / grid.pixel_shares),
                unit * (units * (pixel + 1) / grid.pixel_shares),
                blocks * channel / grid.channel_shares,
                blocks * (channel + 1) / grid.channel_shares);
    }
  });
  if (wanted.grad_bias != nullptr) {
    for (int64_t k = 0; k < shape.k; ++k) {
      float total = 0.0f;
      for (int64_t i = 0; i < grid.pixel_shares; ++i) total += sums[i * floats + weight_floats + k];
      from_float(total, wanted.grad_bias + k);
    }
  }
  if (weight_floats > 0) {
    store_grad_weight(sums.get(), grid.pixel_shares, floats, kBlock, wanted, shape, threads);
  }
}

template <typename T>
void dense_backward(const DenseGradients<T>& wanted, const ConvShape& shape, int threads) {
  switch (filter_vectors(shape.k)) {
    case 1:
      return dense_backward_of<1>(wanted, shape, threads);
    case 2:
      return dense_backward_of<2>(wanted, shape, threads);
    default:
      return dense_backward_of<kMostVecs>(wanted, shape, threads);
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
