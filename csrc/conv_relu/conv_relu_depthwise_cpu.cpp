// conv_relu of depthwise filters on the CPU: the kernels are common/conv_depthwise.h's.
#include "common/conv_depthwise.h"
#include "conv_relu/conv_relu.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

template <typename T>
void forward(const ConvReluForward& a) {
  const std::unique_ptr<float[]> weight =
      pack_taps(static_cast<const T*>(a.weight), a.weight_stride, a.shape);
  const std::unique_ptr<float[]> bias(new float[a.shape.c]());
  const T* given = static_cast<const T*>(a.bias);
  for (int64_t c = 0; c < a.shape.c && given != nullptr; ++c) bias[c] = to_float(given[c]);
  depthwise_forward(static_cast<const T*>(a.x), weight.get(), bias.get(), static_cast<T*>(a.out),
                    a.shape, a.threads);
}

template <typename T>
void backward(const ConvReluBackward& a) {
  const std::unique_ptr<float[]> weight =
      pack_taps(static_cast<const T*>(a.weight), a.weight_stride, a.shape);
  const DepthwiseGradients<T> wanted{static_cast<const T*>(a.grad), static_cast<const T*>(a.out),
                                     static_cast<const T*>(a.x),    weight.get(),
                                     static_cast<T*>(a.grad_x),     static_cast<T*>(a.grad_weight),
                                     a.grad_weight_stride,          static_cast<T*>(a.grad_bias)};
  depthwise_backward(wanted, a.shape, a.threads);
}

}  // namespace

void conv_relu_depthwise_forward_cpu(const ConvReluForward& args) {
  args.dtype == DType::kFloat32 ? forward<float>(args) : forward<BFloat16>(args);
}

void conv_relu_depthwise_backward_cpu(const ConvReluBackward& args) {
  args.dtype == DType::kFloat32 ? backward<float>(args) : backward<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
