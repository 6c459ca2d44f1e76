// batch_norm_relu over channels_last images: a matrix of a row a pixel and a column a channel. Each
// thread has a share of the rows and sums of its own, which are put together in the threads' order.
// The later sweep goes backwards, from what was read last and is still in cache.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "batch_norm_relu/channels.h"
#include "common/threads.h"
#include "common/workspace.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// Rows that a chunk has, which is summed in float32 before float64 takes over: 128 KiB of float32,
// at least 64, or putting sums together would cost too much; and every thread has a chunk.
inline int64_t rows_of_chunk(int64_t rows, int64_t columns, int threads) {
  return std::min((rows + threads - 1) / threads, std::clamp<int64_t>(32768 / columns, 64, 512));
}

// The rows in chunks, and how a kernel goes through them.
struct Chunks {
  int64_t rows, columns, size, count;
  int threads;

  int64_t begin(int64_t chunk) const { return chunk * size; }
  int64_t end(int64_t chunk) const { return std::min(rows, (chunk + 1) * size); }
  int64_t shares() const { return std::min<int64_t>(threads, count); }
};

inline Chunks chunks_of(const BatchNormReluProblem& p, int threads) {
  const int64_t rows = p.images * p.pixels, size = rows_of_chunk(rows, p.channels, threads);
  return {rows, p.channels, size, (rows + size - 1) / size, threads};
}

// Rows that are swept side by side: what is added up or multiplied by is loaded once for all.
constexpr int kRows = 8;

// Calls body(row, count) for the rows of a chunk, count a constant, kRows or 1.
template <typename Body>
FASTMODEL_INLINE void for_each_rows(int64_t begin, int64_t end, const Body& body) {
  for (; begin + kRows <= end; begin += kRows) body(begin, std::integral_constant<int, kRows>{});
  for (; begin < end; ++begin) body(begin, std::integral_constant<int, 1>{});
}

// Calls body(column, lanes) for the vectors of a row.
template <typename Body>
FASTMODEL_INLINE void for_each_columns(int64_t columns, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) body(c, kLanes);
  if (c < columns) body(c, static_cast<int>(columns - c));
}

// Arrays of a float a channel, in whole vectors.
class ChannelArrays {
 public:
  ChannelArrays(int64_t arrays, int64_t columns)
      : size_(whole_lines(columns)), memory_(arrays * size_) {}
  float* operator[](int64_t array) const { return memory_.get() + array * size_; }
  void clear(int64_t array) const { std::fill_n((*this)[array], size_, 0.0f); }

 private:
  int64_t size_;
  Workspace memory_;
};

// The numbers of all channels.
struct ChannelRow {
  const float *mean, *scale, *bias;

  FASTMODEL_INLINE ChannelVec at(int64_t c) const {
    return {load(mean + c), load(scale + c), load(bias + c)};
  }
};

inline ChannelRow fill(const BatchNormReluProblem& p, const float* mean, const float* var,
                       float* means, float* scales, float* biases) {
  for (int64_t c = 0; c < p.channels; ++c) {
    const Channel channel = channel_of(p, mean[c], var[c], c);
    means[c] = channel.mean;
    scales[c] = channel.scale;
    biases[c] = channel.bias;
  }
  return {means, scales, biases};
}

// Adds to sums what the rows [begin, end) of x hold.
template <typename T>
void add_rows(const T* x, int64_t columns, int64_t begin, int64_t end, float* sums) {
  for_each_rows(begin, end, [&](int64_t row, auto count) {
    const T* at = x + row * columns;
    for_each_columns(columns, [&](int64_t c, int lanes) {
      Vec total = load(sums + c);
      for (int r = 0; r < count; ++r) total += load_first(at + r * columns + c, lanes);
      store(sums + c, total);
    });
  });
}

// Adds to sums and squares the rows' distances from shift.
template <typename T>
void add_distances(const T* x, int64_t columns, int64_t begin, int64_t end, const float* shift,
                   float* sums, float* squares) {
  for_each_rows(begin, end, [&](int64_t row, auto count) {
    const T* at = x + row * columns;
    for_each_columns(columns, [&](int64_t c, int lanes) {
      const Vec from = load(shift + c);
      Vec total = load(sums + c), square = load(squares + c);
      for (int r = 0; r < count; ++r) {
        const Vec d = load_first(at + r * columns + c, lanes) - from;
        total += d;
        square += d * d;
      }
      store(sums + c, total);
      store(squares + c, square);
    });
  });
}

// Writes mean and var of every channel.
template <typename T>
void gather_moments(const BatchNormReluForward& a, const Chunks& chunks) {
  const T* x = static_cast<const T*>(a.problem.x);
  const int64_t columns = chunks.columns;
  const ChannelArrays arrays(3 * chunks.shares(), columns);
  std::vector<double> counts(chunks.shares());
  std::vector<double> means(chunks.shares() * columns), squares(means.size());
  parallel_for(chunks.count, chunks.threads, [&](int64_t first, int64_t last, int share) {
    float *shift = arrays[3 * share], *near = arrays[3 * share + 1], *far = arrays[3 * share + 2];
    double *mean = &means[share * columns], *square = &squares[share * columns];
    double done = 0.0;
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = chunks.begin(chunk), end = chunks.end(chunk);
      const double count = static_cast<double>(end - begin);
      for (int i = 0; i < 3; ++i) arrays.clear(3 * share + i);
      if (chunk == first) {
        add_rows(x, columns, begin, end, near);
        const float one = static_cast<float>(1.0 / count);
        for (int64_t c = 0; c < columns; ++c) shift[c] = near[c] * one;
        arrays.clear(3 * share + 1);
      } else {
        for (int64_t c = 0; c < columns; ++c) shift[c] = static_cast<float>(mean[c]);
      }
      add_distances(x, columns, begin, end, shift, near, far);
      for (int64_t c = 0; c < columns; ++c) {
        const Moments both =
            together({done, mean[c], square[c]}, shifted(count, shift[c], near[c], far[c]));
        mean[c] = both.mean;
        square[c] = both.squares;
      }
      done += count;
    }
    counts[share] = done;
  });
  for (int64_t c = 0; c < columns; ++c) {
    Moments all;
    for (int64_t share = 0; share < chunks.shares(); ++share) {
      const int64_t at = share * columns + c;
      all = together(all, {counts[share], means[at], squares[at]});
    }
    store_moments(all, a, c);
  }
}

// Calls body(begin, end) for every chunk, each thread's own from the last to the first.
template <typename Body>
void for_each_chunk_backwards(const Chunks& chunks, const Body& body) {
  parallel_for(chunks.count, chunks.threads, [&](int64_t first, int64_t last, int) {
    for (int64_t chunk = last - 1; chunk >= first; --chunk) {
      body(chunks.begin(chunk), chunks.end(chunk));
    }
  });
}

template <typename T>
void forward_rows(const BatchNormReluForward& a, int threads) {
  const BatchNormReluProblem& p = a.problem;
  const Chunks chunks = chunks_of(p, threads);
  if (p.is_training) gather_moments<T>(a, chunks);
  const int64_t columns = chunks.columns;
  const ChannelArrays arrays(3, columns);
  const ChannelRow channels = fill(p, a.mean, a.var, arrays[0], arrays[1], arrays[2]);
  for_each_chunk_backwards(chunks, [&](int64_t begin, int64_t end) {
    for_each_rows(begin, end, [&](int64_t row, auto count) {
      const T* x = static_cast<const T*>(p.x) + row * columns;
      T* out = static_cast<T*>(a.out) + row * columns;
      for_each_columns(columns, [&](int64_t c, int lanes) {
        const ChannelVec channel = channels.at(c);
        for (int r = 0; r < count; ++r) {
          const int64_t at = r * columns + c;
          const Vec d = load_first(x + at, lanes) - channel.mean;
          store_first(out + at, relu(before_relu(d, channel)), lanes);
        }
      });
    });
  });
}

// The sums of every channel that backward needs.
template <typename T>
std::vector<GradientSums> gather_gradients(const BatchNormReluBackward& a, const Chunks& chunks,
                                           const ChannelRow& channels) {
  const int64_t columns = chunks.columns;
  const ChannelArrays arrays(2 * chunks.shares(), columns);
  std::vector<GradientSums> totals(chunks.shares() * columns);
  parallel_for(chunks.count, chunks.threads, [&](int64_t first, int64_t last, int share) {
    float *sums = arrays[2 * share], *distances = arrays[2 * share + 1];
    for (int64_t chunk = first; chunk < last; ++chunk) {
      for (int i = 0; i < 2; ++i) arrays.clear(2 * share + i);
      for_each_rows(chunks.begin(chunk), chunks.end(chunk), [&](int64_t row, auto count) {
        const T* x = static_cast<const T*>(a.problem.x) + row * columns;
        const T* grad = static_cast<const T*>(a.grad) + row * columns;
        for_each_columns(columns, [&](int64_t c, int lanes) {
          const ChannelVec channel = channels.at(c);
          Vec total = load(sums + c), distance = load(distances + c);
          for (int r = 0; r < count; ++r) {
            const int64_t at = r * columns + c;
            const Vec d = load_first(x + at, lanes) - channel.mean;
            const Vec g = alive(load_first(grad + at, lanes), d, channel);
            total += g;
            distance += g * d;
          }
          store(sums + c, total);
          store(distances + c, distance);
        });
      });
      for (int64_t c = 0; c < columns; ++c) {
        GradientSums& total = totals[share * columns + c];
        total.grad += sums[c];
        total.distance += distances[c];
      }
    }
  });
  for (int64_t at = columns; at < static_cast<int64_t>(totals.size()); ++at) {
    totals[at % columns].grad += totals[at].grad;
    totals[at % columns].distance += totals[at].distance;
  }
  totals.resize(columns);
  return totals;
}

template <typename T>
void backward_rows(const BatchNormReluBackward& a, int threads) {
  const BatchNormReluProblem& p = a.problem;
  const Chunks chunks = chunks_of(p, threads);
  const int64_t columns = chunks.columns;
  const ChannelArrays arrays(5, columns);
  const ChannelRow channels = fill(p, a.mean, a.var, arrays[0], arrays[1], arrays[2]);
  float *slopes = arrays[3], *constants = arrays[4];
  if (needs_sums(a)) {
    const std::vector<GradientSums> sums = gather_gradients<T>(a, chunks, channels);
    for (int64_t c = 0; c < columns; ++c) {
      const Channel channel = channel_of(p, a.mean[c], a.var[c], c);
      store_gradients(a, channel, sums[c], c);
      const GradientLine line = gradient_line(channel, sums[c], static_cast<double>(chunks.rows));
      slopes[c] = line.slope;
      constants[c] = line.constant;
    }
  }
  if (a.grad_x == nullptr) return;
  const auto sweep = [&](const auto& rest) {
    for_each_chunk_backwards(chunks, [&](int64_t begin, int64_t end) {
      for_each_rows(begin, end, [&](int64_t row, auto count) {
        const T* x = static_cast<const T*>(p.x) + row * columns;
        const T* grad = static_cast<const T*>(a.grad) + row * columns;
        T* grad_x = static_cast<T*>(a.grad_x) + row * columns;
        for_each_columns(columns, [&](int64_t c, int lanes) {
          const ChannelVec channel = channels.at(c);
          const auto others = rest(c);
          for (int r = 0; r < count; ++r) {
            const int64_t at = r * columns + c;
            const Vec d = load_first(x + at, lanes) - channel.mean;
            const Vec g = alive(load_first(grad + at, lanes), d, channel);
            store_first(grad_x + at, others(g * channel.scale, d), lanes);
          }
        });
      });
    });
  };
  if (p.is_training) {
    sweep([&](int64_t c) {
      const Vec slope = load(slopes + c), constant = load(constants + c);
      return [=](Vec g, Vec d) { return g + (d * slope + constant); };
    });
  } else {
    sweep([](int64_t) { return [](Vec g, Vec) { return g; }; });
  }
}

}  // namespace
}  // namespace fastmodel::FASTMODEL_CAPABILITY
