// The elementwise halves of a linear layer with its activation: after the forward's product, and
// before the backward's two.
//
// Bytes an element of float32 (half of it in 16 bits): apply reads 4 and writes 4; chain reads 8
// and writes 4, and its bias gradient costs 4 / kRows more. PyTorch's own backward reads
// 8, writes 4 and reads the 4 again for the bias. A few FLOPs each (some 20 for GELU): memory is
// the floor, 3 x 8,192 x 4,096 x 2 bytes = 201 MB for a bfloat16 layer of that size.
//
// Chain: a block takes kRows rows of a strip of columns, and of long inputs kRows more further
// down. Each warp goes down every eighth row, a pack of columns a lane, and keeps the columns' sums
// in registers; the eight meet in shared memory. A second kernel adds the blocks' sums up,
// likewise. No atomics, so the result is deterministic.
#include <type_traits>

#include "common/gpu_elements.cuh"
#include "linear/gpu_activations.cuh"
#include "linear/linear_cuda.h"

namespace fastmodel {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kRows = 128;
constexpr int64_t kMostPartials = 1024;

template <typename Kind, typename T>
__global__ __launch_bounds__(kThreads) void linear_apply(const T* pre, T* out, int64_t n) {
  for_each_pack<T>(n, head_of(n, pre, out), grid_thread(), grid_threads(),
                   [&](auto width, int64_t i) {
                     auto v = load_floats(width, pre + i);
#pragma unroll
                     for (int k = 0; k < width.kCount; ++k) v[k] = Kind::value(v[k]);
                     store_floats(out + i, v);
                   });
}

// N columns a lane; N is more than 1 only where every row begins at a multiple of 16 bytes.
template <typename Kind, int N, typename T>
__global__ __launch_bounds__(kThreads) void linear_chain(const T* grad, const T* saved, T* chained,
                                                         float* partials, int64_t rows,
                                                         int64_t columns) {
  FASTMODEL_SHARED(float, sums, kWarps * kWarp * N);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t column = (int64_t{blockIdx.x} * kWarp + lane) * N;

  Floats<N> own = {};
  for (int64_t first = blockIdx.y * kRows; first < rows; first += gridDim.y * kRows) {
    const int64_t last = first + kRows < rows ? first + kRows : rows;
    for (int64_t row = first + warp; row < last && column < columns; row += kWarps) {
      const int64_t i = row * columns + column;
      auto g = load_floats(Width<N>(), grad + i);
      const auto s = load_floats(Width<N>(), saved + i);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        // A dead ReLU drops even an infinite gradient.
        const float slope = Kind::derivative(s[k]);
        g[k] = slope == 0.0f && std::is_same_v<Kind, Relu> ? 0.0f : g[k] * slope;
        own[k] += g[k];
      }
      store_floats(chained + i, g);
    }
  }
  if (partials == nullptr) return;
#pragma unroll
  for (int k = 0; k < N; ++k) sums[(warp * N + k) * kWarp + lane] = own[k];
  sync_block();
  for (int c = static_cast<int>(threadIdx.x); c < kWarp * N; c += kThreads) {
    const int64_t to = int64_t{blockIdx.x} * kWarp * N + c;
    if (to >= columns) break;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[(w * N + c % N) * kWarp + c / N];
    partials[blockIdx.y * columns + to] = total;
  }
}

template <typename T>
__global__ __launch_bounds__(kThreads) void linear_bias_gradient(const float* partials,
                                                                 int64_t count, int64_t columns,
                                                                 T* grad_bias) {
  FASTMODEL_SHARED(float, sums, kWarps* kWarp);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  float total = 0.0f;
  for (int64_t i = warp; i < count && column < columns; i += kWarps) {
    total += partials[i * columns + column];
  }
  sums[warp * kWarp + lane] = total;
  sync_block();
  if (warp > 0 || column >= columns) return;
#pragma unroll
  for (int w = 1; w < kWarps; ++w) total += sums[w * kWarp + lane];
  from_float(total, grad_bias + column);
}

template <typename Body>
void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kRelu:
      return body(Relu());
    case Activation::kGelu:
      return body(Gelu());
    case Activation::kSilu:
      return body(Silu());
    case Activation::kSigmoid:
      return body(Sigmoid());
    case Activation::kTanh:
      return body(Tanh());
  }
}

template <typename Kind, int N, typename T>
void launch_chain(const LinearChainCuda& a, Stream stream) {
  const LinearActivationChain& c = a.chain;
  const dim3 grid(static_cast<unsigned>(ceil_div(c.out_features, kWarp * N)),
                  static_cast<unsigned>(linear_chain_partials(c.rows)));
  launch("linear", linear_chain<Kind, N, T>, grid, kThreads, 0, stream,
         static_cast<const T*>(c.grad), static_cast<const T*>(c.saved), static_cast<T*>(c.chained),
         c.grad_bias == nullptr ? nullptr : a.partials, c.rows, c.out_features);
}

bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

int64_t linear_chain_partials(int64_t rows) {
  const int64_t wanted = ceil_div(rows, kRows);
  return wanted < kMostPartials ? wanted : kMostPartials;
}

void linear_apply_cuda(Activation activation, const LinearActivationApply& a, Stream stream) {
  with_element_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    with_activation(activation, [&](auto kind) {
      launch("linear", linear_apply<decltype(kind), T>,
             elementwise_blocks<T>("linear", a.size, kThreads, stream), kThreads, 0, stream,
             static_cast<const T*>(a.pre), static_cast<T*>(a.out), a.size);
    });
  });
}

void linear_chain_cuda(Activation activation, const LinearChainCuda& a, Stream stream) {
  const LinearActivationChain& c = a.chain;
  with_element_type(c.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kCount = Pack<T>::kCount;
    const bool is_packed = c.out_features % kCount == 0 && is_aligned(c.grad) &&
                           is_aligned(c.saved) && is_aligned(c.chained);
    with_activation(activation, [&](auto kind) {
      if (is_packed) {
        launch_chain<decltype(kind), kCount, T>(a, stream);
      } else {
        launch_chain<decltype(kind), 1, T>(a, stream);
      }
    });
    if (c.grad_bias == nullptr) return;
    launch("linear", linear_bias_gradient<T>,
           static_cast<unsigned>(ceil_div(c.out_features, kWarp)), kThreads, 0, stream, a.partials,
           linear_chain_partials(c.rows), c.out_features, static_cast<T*>(c.grad_bias));
  });
}

}  // namespace fastmodel
