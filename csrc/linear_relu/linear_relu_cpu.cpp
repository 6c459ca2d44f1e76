// linear_relu on the CPU: the passes of a linear layer, with the mask of the ReLU before its
// backward.
#include "common/linear_forward.h"
#include "common/relu_mask.h"
#include "linear_relu/linear_relu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

struct Relu {
  static FASTMODEL_INLINE Vec value(Vec z) { return relu(z); }
};

template <typename T>
void forward(const LinearReluForward& a) {
  linear_forward<Relu, T>(static_cast<const T*>(a.x), static_cast<const T*>(a.weight),
                          static_cast<const T*>(a.bias), static_cast<T*>(a.out), nullptr,
                          {a.rows, a.in_features, a.out_features}, a.threads);
}

template <typename T>
void backward(const LinearReluBackward& a) {
  relu_mask(static_cast<const T*>(a.grad), static_cast<const T*>(a.out), a.masked,
            static_cast<T*>(a.grad_bias), a.rows, a.out_features, a.threads, a.scale);
  linear_backward(a.masked, static_cast<const T*>(a.x), static_cast<const T*>(a.weight),
                  static_cast<T*>(a.grad_x), static_cast<T*>(a.grad_weight),
                  {a.rows, a.in_features, a.out_features}, a.threads);
}

template <typename T>
void mask(const LinearReluMask& a) {
  relu_mask(static_cast<const T*>(a.grad), static_cast<const T*>(a.out), static_cast<T*>(a.masked),
            static_cast<T*>(a.grad_bias), a.rows, a.out_features, a.threads, a.scale);
}

}  // namespace

void linear_relu_forward_cpu(const LinearReluForward& args) {
  args.dtype == DType::kFloat32 ? forward<float>(args) : forward<BFloat16>(args);
}

void linear_relu_backward_cpu(const LinearReluBackward& args) {
  args.dtype == DType::kFloat32 ? backward<float>(args) : backward<BFloat16>(args);
}

void linear_relu_mask_cpu(const LinearReluMask& args) {
  args.dtype == DType::kFloat32 ? mask<float>(args) : mask<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
