// Gradients of a convolution from the few output pixels that carry one.
//
// Behind a ReLU and a max-pool at most one pixel of a window has a gradient, so the sums run over
// lists of live (pixel, gradient) pairs instead of over all pixels:
//   grad_weight[k][patch] += g * x[pixel + patch]   a list per channel, the filter in registers
//   grad_x[pixel + patch] += g * weight[k][patch]   a list per pixel, the patch in registers; or,
//                                                   where an image fits L1, the same list per
//                                                   channel, the filter in registers
// A masked gradient contributes nothing, also where x is infinite (a dense product makes a NaN).
//
// FLOPs: 2 * live * C * R * S for each gradient that is wanted. One FMA per load from L1 or L2.
#pragma once

#include <memory>
#include <vector>

#include "common/conv_image.h"
#include "common/live_tile.h"
#include "common/threads.h"
#include "common/workspace.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Floats between packed filters: an odd number of cache lines, so that the same tile of many
// filters spreads over all sets of the cache.
inline int64_t filter_stride(const ConvShape& shape) {
  return (whole_lines(shape.patch()) / 16 | 1) * 16;
}

// What one thread needs to add up gradients, image after image. A pooled pixel's slot is the pixel
// of its window that the gradient goes to, or shape.window() for none.
class LiveGradients {
 public:
  LiveGradients(const ConvShape& shape, const float* packed_weight, float* grad_weight,
                float* grad_bias)
      : shape_(shape),
        runs_(filter_runs(shape)),
        packed_weight_(packed_weight),
        grad_weight_(grad_weight),
        grad_bias_(grad_bias),
        by_taps_(grad_weight != nullptr && runs_.length < kLanes / 2),
        is_small_(shape.padded_h() * shape.padded_w() * shape.c * 4 <= kImageBytesInL1),
        scatters_(packed_weight != nullptr && !by_taps_ && is_small_),
        is_narrow_(shape.k * shape.patch() * 4 > kFilterBytesInL1),
        chunk_(is_narrow_ ? kNarrowChunk : std::max<int64_t>(1, shape.k)) {
    for (int64_t r = 0; r < runs_.count; ++r) packed_run_.push_back(r * runs_.length);
    for (int64_t j = 0; j < shape.window(); ++j) {
      window_offset_.push_back(pixel_offset(shape, j / shape.pool_s, j % shape.pool_s));
    }
    window_offset_.push_back(0);  // of a dead window, whose pair is never read
    for (size_t j = 0; j < window_offset_.size() && j < kLanes; ++j) {
      lane_window_[j] = static_cast<int32_t>(window_offset_[j]);
    }
    band_rows_ = band_rows(shape);
    const int64_t row_pairs = std::max<int64_t>(1, shape.k * shape.pq);
    // Room for all, so that nothing is allocated within the parallel region; left unwritten, so
    // that the thread that uses it is the first to touch it.
    if (scatters_ || (grad_weight != nullptr && !by_taps_)) {
      channel_pairs_.reset(new LivePair[band_rows_ * row_pairs]);
      channel_count_.resize(shape.k);
    }
    if (packed_weight != nullptr && !scatters_) {
      band_pairs_.reset(new LivePair[band_rows_ * row_pairs + kLanes]);
      for (int i = 0; i < kLanes; ++i) {
        lane_[i] = i;
        lane_filter_[i] = filter_offset(i);
      }
      pixel_lists_.resize((shape.k + chunk_ - 1) / chunk_);
      for (std::vector<PixelList>& lists : pixel_lists_) {
        lists.reserve(band_rows_ * shape.pq * shape.window());
      }
    }
    if (by_taps_) {
      for (const int64_t offset : runs_.offset) {
        for (int64_t e = 0; e < runs_.length; ++e) tap_offset_.push_back(offset + e);
      }
      tap_sums_.resize(shape.patch() * tap_stride());
    }
  }

  // Rows of pooled pixels whose lists are made and summed together.
  static int64_t band_rows(const ConvShape& shape) {
    const int64_t pairs = std::max(kBandPairs, kBandPixels * shape.k);
    const int64_t row_pairs = std::max<int64_t>(1, shape.k * shape.pq);
    return std::min(shape.pp, std::max<int64_t>(1, pairs / row_pairs));
  }

  // Adds the gradients of one image. grad and slot are its (PP, PQ, K) planes; grad_x is the zeroed
  // padded image, or null.
  template <typename T>
  void add(const float* image, const T* grad, const uint8_t* slot, float* grad_x) {
    const int64_t row_size = shape_.pq * shape_.k;
    for (int64_t row = 0; row < shape_.pp; row += band_rows_) {
      const int64_t end = std::min(shape_.pp, row + band_rows_);
      add_band(row, end, image, grad + row * row_size, slot + row * row_size, grad_x);
    }
  }

  // The next image to come and its gradient, or null, to be fetched while this one is summed.
  void announce(const float* image, const float* grad_x) { next_ = {image, grad_x}; }

  // As add, of rows [row, end), at most band_rows, whose planes begin at `row`.
  template <typename T>
  void add_band(int64_t row, int64_t end, const float* image, const T* grad, const uint8_t* slot,
                float* grad_x) {
    const bool wants_lists = grad_weight_ != nullptr && !by_taps_;
    if (wants_lists || grad_x != nullptr) {
      add_lists(row, end, wants_lists, grad, slot, image, grad_x);
    }
    if (by_taps_) add_taps(row, end, grad, slot, image);
    if (grad_bias_ != nullptr) add_bias((end - row) * shape_.pq, grad, slot);
  }

  // After the last image: puts what was summed in another order in its place.
  void finish() {
    if (!by_taps_) return;
    for (int64_t k = 0; k < shape_.k; ++k) {
      for (int64_t t = 0; t < shape_.patch(); ++t) {
        grad_weight_[k * shape_.patch() + t] = tap_sums_[t * tap_stride() + k];
      }
    }
  }

 private:
  // Pairs of one band of rows: 128 KiB, to stay in L2 beside the images and the filters; but at
  // least so many pixels that a channel's list is worth fetching its sums for.
  static constexpr int64_t kBandPairs = 16384, kBandPixels = 128;
  // Filters beyond this are walked in narrow tiles; an L1 of 32 KiB holds the rest of the working
  // set too.
  static constexpr int64_t kFilterBytesInL1 = 24 * 1024;
  // The image's gradient, which a scattered sum walks once for every channel. Against lists per
  // pixel, 32 to 64 channels at 13 x 13, batch 64: the whole backward 1.13 to 1.24 times as fast
  // (2 cores of an Intel Xeon, Emerald Rapids; the same calls by turns in two builds).
  static constexpr int64_t kImageBytesInL1 = 32 * 1024;
  // So many channels at a time, in whole vectors, whose part of a narrow tile fits.
  static constexpr int64_t kNarrowChunk =
      kFilterBytesInL1 / (kTileRuns * kHalfTileVecs * kLanes * 4) / kLanes * kLanes;

  // The live pairs of one pixel, band_pairs_[begin .. begin + count), and its patch's place in the
  // image.
  struct PixelList {
    int64_t begin, count, offset;
  };

  template <typename T>
  void add_lists(int64_t row, int64_t end, bool wants_weight, const T* grad, const uint8_t* slot,
                 const float* image, float* grad_x) {
    const int64_t capacity = band_rows_ * shape_.pq;
    std::fill(channel_count_.begin(), channel_count_.end(), 0);
    for (std::vector<PixelList>& lists : pixel_lists_) lists.clear();
    band_count_ = 0;
    for (int64_t p = row; p < end; ++p) {
      for (int64_t q = 0; q < shape_.pq; ++q) {
        const int64_t pixel = ((p - row) * shape_.pq + q) * shape_.k;
        const int64_t base =
            pixel_offset(shape_, p * shape_.pool_stride_h, q * shape_.pool_stride_w);
        if ((wants_weight || scatters_) && shape_.window() == 1) {
          list_live_channels(grad + pixel, slot + pixel, base, capacity);
        } else if (wants_weight || scatters_) {
          list_by_channel(grad + pixel, slot + pixel, base, capacity);
        }
        if (grad_x != nullptr && !scatters_) list_by_pixel(grad + pixel, slot + pixel, base);
      }
    }
    if (grad_x != nullptr) scatters_ ? scatter_grad_x(grad_x, capacity) : add_grad_x(grad_x);
    if (wants_weight) add_grad_weight(image, capacity);
  }

  // Tile by tile and chunk by chunk over the whole band, so that the filters' part stays in L1.
  void add_grad_x(float* grad_x) {
    for_each_tile(runs_, is_narrow_, [&](auto runs, auto vecs, int64_t r, int64_t e, int lanes) {
      for (const std::vector<PixelList>& lists : pixel_lists_) {
        for (const PixelList& list : lists) {
          live_tile<runs(), vecs()>(&band_pairs_[list.begin], list.count, packed_weight_ + e,
                                    &packed_run_[r], grad_x + list.offset + e, &runs_.offset[r],
                                    lanes);
        }
      }
    });
  }

  // Channel by channel, so that a filter is fetched once for all its pixels of the band.
  void scatter_grad_x(float* grad_x, int64_t capacity) {
    for (int64_t k = 0; k < shape_.k; ++k) {
      fetch_next(next_.grad_x, k);
      const LivePair* pairs = &channel_pairs_[k * capacity];
      const float* filter = packed_weight_ + filter_offset(k);
      for_each_tile(runs_, false, [&](auto runs, auto vecs, int64_t r, int64_t e, int lanes) {
        const auto tile = lanes == kLanes ? scatter_tile<runs(), vecs(), true>
                                          : scatter_tile<runs(), vecs(), false>;
        tile(pairs, channel_count_[k], filter + e, &packed_run_[r], grad_x + e, &runs_.offset[r],
             lanes);
      });
    }
  }

  // Channel k's share of the next small image, whose lines would come one by one from L3, each as
  // it is wanted; into L2, for L1 is full.
  void fetch_next(const float* image, int64_t k) const {
    if (image == nullptr || !is_small_) return;
    const int64_t lines = shape_.padded_h() * shape_.padded_w() * shape_.c / 16;
    for (int64_t i = lines * k / shape_.k; i < lines * (k + 1) / shape_.k; ++i) {
      __builtin_prefetch(image + i * 16, 0, 2);
    }
  }

  void add_grad_weight(const float* image, int64_t capacity) {
    for (int64_t k = 0; k < shape_.k; ++k) {
      fetch_next(next_.image, k);
      if (channel_count_[k] == 0) continue;
      for_each_tile(runs_, false, [&](auto runs, auto vecs, int64_t r, int64_t e, int lanes) {
        live_tile<runs(), vecs()>(&channel_pairs_[k * capacity], channel_count_[k], image + e,
                                  &runs_.offset[r], grad_weight_ + k * shape_.patch() + e,
                                  &packed_run_[r], lanes);
      });
    }
  }

  // Appends without a branch: a dead pair is overwritten by the next one. Small windows: the pairs
  // of a vector of channels are made together, then each is moved to its list.
  template <typename T>
  void list_by_channel(const T* g, const uint8_t* s, int64_t base, int64_t capacity) {
    const uint8_t dead = static_cast<uint8_t>(shape_.window());
    int64_t k = 0;
    for (; dead < kLanes && k + kLanes <= shape_.k; k += kLanes) {
      const IVec slot = load_bytes(s + k, kLanes);
      LivePair pairs[kLanes];
      interleave_pairs(pairs, look_up(lane_window_, slot) + static_cast<int32_t>(base),
                       load(g + k));
      int32_t* count = &channel_count_[k];
      FASTMODEL_UNROLL
      for (int i = 0; i < kLanes; ++i) channel_pairs_[(k + i) * capacity + count[i]] = pairs[i];
      IVec counts;
      std::memcpy(&counts, count, sizeof(counts));
      counts -= slot != static_cast<int32_t>(dead);  // a comparison is -1 where it holds
      std::memcpy(count, &counts, sizeof(counts));
    }
    for (; k < shape_.k; ++k) {
      const int32_t count = channel_count_[k];
      channel_pairs_[k * capacity + count] = {static_cast<int32_t>(base + window_offset_[s[k]]),
                                              to_float(g[k])};
      channel_count_[k] = count + (s[k] != dead);
    }
  }

  // The live channels of each pixel of a window, in ascending order, each chunk in its own list.
  template <typename T>
  void list_by_pixel(const T* g, const uint8_t* s, int64_t base) {
    for (int64_t j = 0; j < shape_.window(); ++j) {
      for (int64_t first = 0; first < shape_.k; first += chunk_) {
        const int64_t begin = band_count_, last = std::min(shape_.k, first + chunk_);
        for (int64_t k = first; k < last; k += kLanes) {
          const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - k));
          const IVec live = (load_bytes(s + k, lanes) == static_cast<int32_t>(j)) & (lane_ < lanes);
          band_count_ += compress_pairs(&band_pairs_[band_count_], lane_filter_ + filter_offset(k),
                                        load_first(g + k, lanes), live);
        }
        if (band_count_ == begin) continue;
        pixel_lists_[first / chunk_].push_back(
            {begin, band_count_ - begin, base + window_offset_[j]});
      }
    }
  }

  // Windows of one pixel: most channels are dead, so that the live ones are looked for.
  template <typename T>
  void list_live_channels(const T* g, const uint8_t* s, int64_t base, int64_t capacity) {
    for (int64_t first = 0; first < shape_.k; first += 64) {
      uint64_t live = zero_bytes(s + first, std::min<int64_t>(64, shape_.k - first));
      for (; live != 0; live &= live - 1) {
        const int64_t k = first + __builtin_ctzll(live);
        channel_pairs_[k * capacity + channel_count_[k]++] = {static_cast<int32_t>(base),
                                                              to_float(g[k])};
      }
    }
  }

  int32_t filter_offset(int64_t k) const { return static_cast<int32_t>(k * filter_stride(shape_)); }

  // First layers: a run is shorter than a vector, so vectors go over output channels instead, and
  // every window pixel is visited with its gradient masked.
  template <typename T>
  void add_taps(int64_t row, int64_t end, const T* grad, const uint8_t* slot, const float* image) {
    const int64_t taps = static_cast<int64_t>(tap_offset_.size());
    constexpr int64_t kBlock = kTapVecs * kLanes;
    for (int64_t k = 0; k < shape_.k; k += kBlock) {
      int64_t t = 0;
      for (; t + kTapTile <= taps; t += kTapTile) {
        tap_tile<kTapTile>(row, end, k, t, grad, slot, image);
      }
      for (; t + 3 <= taps; t += 3) tap_tile<3>(row, end, k, t, grad, slot, image);
      for (; t < taps; ++t) tap_tile<1>(row, end, k, t, grad, slot, image);
    }
  }

  // Output channels filled up to whole tiles.
  int64_t tap_stride() const {
    constexpr int64_t kBlock = kTapVecs * kLanes;
    return (shape_.k + kBlock - 1) / kBlock * kBlock;
  }

  template <int kTaps, typename T>
  void tap_tile(int64_t row, int64_t end, int64_t k, int64_t t, const T* grad, const uint8_t* slot,
                const float* image) {
    Vec acc[kTaps][kTapVecs];
    float* sums = &tap_sums_[t * tap_stride() + k];
    FASTMODEL_UNROLL
    for (int i = 0; i < kTaps; ++i) {
      FASTMODEL_UNROLL
      for (int v = 0; v < kTapVecs; ++v) acc[i][v] = load(sums + i * tap_stride() + v * kLanes);
    }
    const int64_t* tap = &tap_offset_[t];
    int lanes[kTapVecs];
    FASTMODEL_UNROLL
    for (int v = 0; v < kTapVecs; ++v) {
      lanes[v] = static_cast<int>(
          std::max<int64_t>(0, std::min<int64_t>(kLanes, shape_.k - k - v * kLanes)));
    }
    for (int64_t p = row; p < end; ++p) {
      for (int64_t q = 0; q < shape_.pq; ++q) {
        const int64_t at = ((p - row) * shape_.pq + q) * shape_.k + k;
        const float* base =
            image + pixel_offset(shape_, p * shape_.pool_stride_h, q * shape_.pool_stride_w);
        Vec g[kTapVecs];
        IVec s[kTapVecs];
        FASTMODEL_UNROLL
        for (int v = 0; v < kTapVecs; ++v) {
          g[v] = load_first(grad + at + v * kLanes, lanes[v]);
          s[v] = load_bytes(slot + at + v * kLanes, lanes[v]);
        }
        for (int64_t j = 0; j < shape_.window(); ++j) {
          const float* x = base + window_offset_[j];
          Vec live[kTapVecs];
          FASTMODEL_UNROLL
          for (int v = 0; v < kTapVecs; ++v) {
            live[v] = s[v] == static_cast<int32_t>(j) ? g[v] : Vec{};
          }
          FASTMODEL_UNROLL
          for (int i = 0; i < kTaps; ++i) {
            const Vec xv = broadcast(x[tap[i]]);
            FASTMODEL_UNROLL
            for (int v = 0; v < kTapVecs; ++v) acc[i][v] += xv * live[v];
          }
        }
      }
    }
    FASTMODEL_UNROLL
    for (int i = 0; i < kTaps; ++i) {
      FASTMODEL_UNROLL
      for (int v = 0; v < kTapVecs; ++v) store(sums + i * tap_stride() + v * kLanes, acc[i][v]);
    }
  }

  template <typename T>
  void add_bias(int64_t pixels, const T* grad, const uint8_t* slot) {
    const int32_t dead = static_cast<int32_t>(shape_.window());
    for (int64_t k = 0; k < shape_.k; k += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, shape_.k - k));
      Vec total = {};
      for (int64_t i = 0; i < pixels; ++i) {
        const IVec s = load_bytes(slot + i * shape_.k + k, lanes);
        total += s == dead ? Vec{} : load_first(grad + i * shape_.k + k, lanes);
      }
      store_first(grad_bias_ + k, load_first(grad_bias_ + k, lanes) + total, lanes);
    }
  }

  ConvShape shape_;
  Runs runs_;
  const float* packed_weight_;  // as pack_patches
  float* grad_weight_;          // [K][run][element], this thread's own; null if not wanted
  float* grad_bias_;            // [K], this thread's own; null if not wanted
  bool by_taps_, is_small_, scatters_, is_narrow_;
  int64_t chunk_;  // channels whose filters are walked together for grad_x
  int64_t band_rows_;
  std::vector<int64_t> packed_run_, window_offset_, tap_offset_;
  std::unique_ptr<LivePair[]> channel_pairs_, band_pairs_;
  int64_t band_count_ = 0;
  struct {
    const float *image, *grad_x;
  } next_ = {nullptr, nullptr};
  // Of each lane: its number, the offset of its filter, and that of the window's pixel so numbered.
  IVec lane_ = {}, lane_filter_ = {}, lane_window_ = {};
  std::vector<std::vector<PixelList>> pixel_lists_;  // of each chunk
  std::vector<int32_t> channel_count_;
  std::vector<float> tap_sums_;  // [tap][K filled up]
};

// What the caller of backward wants and gets; null for each gradient that is not wanted.
template <typename T>
struct ConvGradients {
  T* grad_x;
  Strides grad_x_stride;
  T* grad_weight;
  Strides grad_weight_stride;
  T* grad_bias;
};

// Filters as [K][run][element], the order of a patch in the image, filter_stride apart.
template <typename T>
void pack_patches(const T* weight, const Strides& stride, const ConvShape& shape, int threads,
                  float* packed) {
  parallel_for(shape.k, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin; k < end; ++k) {
      float* to = packed + k * filter_stride(shape);
      for (int64_t r = 0; r < shape.r; ++r) {
        for (int64_t s = 0; s < shape.s; ++s) {
          const T* from = weight + k * stride.d0 + r * stride.d2 + s * stride.d3;
          for (int64_t c = 0; c < shape.c; ++c) *to++ = to_float(from[c * stride.d1]);
        }
      }
    }
  });
}

// All gradients of the batch. add_image(n, thread, image, grad_x, gradients) adds those of image n.
// Each thread sums its share of the images; the sums are added in thread order.
template <typename T, typename AddImage>
void conv_gradients(const T* x, const Strides& x_stride, const T* weight,
                    const Strides& weight_stride, const ConvShape& shape,
                    const ConvGradients<T>& wanted, int threads, const AddImage& add_image) {
  const int64_t filters = shape.k * shape.patch();
  const int shares = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, shape.n)));
  const Workspace packed(wanted.grad_x != nullptr ? shape.k * filter_stride(shape) : 0);
  if (wanted.grad_x != nullptr) {
    pack_patches(weight, weight_stride, shape, threads, packed.get());
  }

  const ImageReader<T> reader(x, x_stride, shape);
  const ImageWriter<T> writer(wanted.grad_x, wanted.grad_x_stride, shape);
  const int64_t first_filter = whole_lines(shape.k);
  const int64_t sums = first_filter + (wanted.grad_weight != nullptr ? whole_lines(filters) : 0);
  const int64_t x_floats = whole_lines(reader.scratch_floats());
  const int64_t own_floats = sums + x_floats + whole_lines(writer.scratch_floats());
  const Workspace scratch(own_floats * shares);
  std::vector<LiveGradients> gradients;
  for (int i = 0; i < shares; ++i) {
    float* own = scratch.get() + i * own_floats;
    std::fill(own, own + sums, 0.0f);
    gradients.emplace_back(shape, packed.get(),
                           wanted.grad_weight != nullptr ? own + first_filter : nullptr,
                           wanted.grad_bias != nullptr ? own : nullptr);
  }
  parallel_for(shape.n, shares, [&](int64_t begin, int64_t end, int thread) {
    float* own_x = scratch.get() + thread * own_floats + sums;
    float* own_grad_x = own_x + x_floats;
    for (int64_t n = begin; n < end; ++n) {
      const float* image = reader.read(n, 0, shape.padded_h(), own_x);
      float* grad_x = writer.is_wanted() ? writer.begin(n, own_grad_x) : nullptr;
      const bool is_last = n + 1 == end;
      gradients[thread].announce(is_last ? nullptr : reader.direct(n + 1),
                                 is_last ? nullptr : writer.direct(n + 1));
      add_image(n, thread, image, grad_x, &gradients[thread]);
      if (grad_x != nullptr) writer.finish(n, grad_x);
    }
    gradients[thread].finish();
  });

  const auto total = [&](int64_t at) {
    float sum = 0.0f;
    for (int i = 0; i < shares; ++i) sum += scratch.get()[i * own_floats + at];
    return sum;
  };
  if (wanted.grad_bias != nullptr) {
    for (int64_t k = 0; k < shape.k; ++k) from_float(total(k), wanted.grad_bias + k);
  }
  if (wanted.grad_weight == nullptr) return;
  const Strides& stride = wanted.grad_weight_stride;
  parallel_for(shape.k, threads, [&](int64_t begin, int64_t end, int) {
    int64_t at = first_filter + begin * shape.patch();
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t r = 0; r < shape.r; ++r) {
        for (int64_t s = 0; s < shape.s; ++s) {
          T* to = wanted.grad_weight + k * stride.d0 + r * stride.d2 + s * stride.d3;
          for (int64_t c = 0; c < shape.c; ++c) from_float(total(at++), to + c * stride.d1);
        }
      }
    }
  });
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
