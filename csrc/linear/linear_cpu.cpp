// linear on the CPU: the products of common/linear.h. FLOPs and bytes stand there; beside them
// backward reads grad once more, for the sums of its columns.
#include "common/linear_forward.h"
#include "common/share_sums.h"
#include "linear/linear.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

struct Identity {
  static FASTMODEL_INLINE Vec value(Vec z) { return z; }
};

// sums[c] = sum over rows of matrix[...][c]; in registers for this many rows.
constexpr int64_t kSummedRows = 32;

template <typename T>
void column_sums(const T* matrix, T* sums, int64_t rows, int64_t columns, int threads) {
  const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(threads, rows));
  const ShareSums shared(shares, columns);
  parallel_for(rows, threads, [&](int64_t begin, int64_t end, int thread) {
    float* const own = shared.of(thread);
    for (int64_t first = begin; first < end; first += kSummedRows) {
      const int64_t last = std::min(first + kSummedRows, end);
      for (int64_t c = 0; c < columns; c += kLanes) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
        Vec sum = load_first(own + c, lanes);
        for (int64_t row = first; row < last; ++row) {
          sum += load_first(matrix + row * columns + c, lanes);
        }
        store_first(own + c, sum, lanes);
      }
    }
  });
  for (int64_t c = 0; c < columns; ++c) from_float(shared.total(c), sums + c);
}

template <typename T>
void forward(const LinearForward& a) {
  linear_forward<Identity, T>(static_cast<const T*>(a.x), static_cast<const T*>(a.weight),
                              static_cast<const T*>(a.bias), static_cast<T*>(a.out), nullptr,
                              {a.rows, a.in_features, a.out_features}, a.threads);
}

template <typename T>
void backward(const LinearBackward& a) {
  const T* grad = static_cast<const T*>(a.grad);
  if (a.grad_bias != nullptr) {
    column_sums(grad, static_cast<T*>(a.grad_bias), a.rows, a.out_features, a.threads);
  }
  linear_backward(grad, static_cast<const T*>(a.x), static_cast<const T*>(a.weight),
                  static_cast<T*>(a.grad_x), static_cast<T*>(a.grad_weight),
                  {a.rows, a.in_features, a.out_features}, a.threads);
}

}  // namespace

void linear_forward_cpu(const LinearForward& args) {
  args.dtype == DType::kFloat32 ? forward<float>(args) : forward<BFloat16>(args);
}

void linear_backward_cpu(const LinearBackward& args) {
  args.dtype == DType::kFloat32 ? backward<float>(args) : backward<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
