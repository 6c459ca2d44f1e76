#include <pybind11/stl.h>

#include "common/bindings.h"
#include "conv_relu/conv_relu.h"

namespace fastmodel {

namespace {

template <void (*kKernel)(const ConvReluForward&)>
void def_forward(py::module_& module, const char* name) {
  module.def(
      name,
      [](const ConvSizes& sizes, uintptr_t x, const StrideArray& x_stride, uintptr_t weight,
         const StrideArray& weight_stride, uintptr_t bias, uintptr_t out, int dtype, int threads) {
        kKernel({conv_shape(sizes), pointer<void>(x), strides(x_stride), pointer<void>(weight),
                 strides(weight_stride), pointer<void>(bias), pointer<void>(out),
                 static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
}

template <void (*kKernel)(const ConvReluBackward&)>
void def_backward(py::module_& module, const char* name) {
  module.def(
      name,
      [](const ConvSizes& sizes, uintptr_t grad, uintptr_t out, uintptr_t x,
         const StrideArray& x_stride, uintptr_t weight, const StrideArray& weight_stride,
         uintptr_t grad_x, const StrideArray& grad_x_stride, uintptr_t grad_weight,
         const StrideArray& grad_weight_stride, uintptr_t grad_bias, int dtype, int threads) {
        kKernel({conv_shape(sizes), pointer<void>(grad), pointer<void>(out), pointer<void>(x),
                 strides(x_stride), pointer<void>(weight), strides(weight_stride),
                 pointer<void>(grad_x), strides(grad_x_stride), pointer<void>(grad_weight),
                 strides(grad_weight_stride), pointer<void>(grad_bias), static_cast<DType>(dtype),
                 threads});
      },
      ReleaseGil());
}

}  // namespace

void bind_conv_relu(py::module_& module) {
  def_forward<conv_relu_forward_cpu>(module, "conv_relu_forward_cpu");
  def_forward<conv_relu_depthwise_forward_cpu>(module, "conv_relu_depthwise_forward_cpu");
  def_backward<conv_relu_backward_cpu>(module, "conv_relu_backward_cpu");
  def_backward<conv_relu_depthwise_backward_cpu>(module, "conv_relu_depthwise_backward_cpu");
  module.def(
      "conv_relu_weight_gradient_cpu",
      [](const ConvSizes& sizes, uintptr_t grad, uintptr_t out, uintptr_t x,
         const StrideArray& x_stride, uintptr_t masked, uintptr_t grad_weight,
         const StrideArray& grad_weight_stride, uintptr_t grad_bias, int dtype, int threads) {
        conv_relu_backward_cpu({conv_shape(sizes), pointer<void>(grad), pointer<void>(out),
                                pointer<void>(x), strides(x_stride), nullptr, Strides{}, nullptr,
                                Strides{}, pointer<void>(grad_weight), strides(grad_weight_stride),
                                pointer<void>(grad_bias), static_cast<DType>(dtype), threads,
                                nullptr, pointer<void>(masked)});
      },
      ReleaseGil());
  module.def(
      "conv_relu_winograd_forward_cpu",
      [](const ConvSizes& sizes, uintptr_t x, const StrideArray& x_stride, uintptr_t weight,
         const StrideArray& weight_stride, uintptr_t bias, uintptr_t out, int dtype, int threads) {
        bool is_finite = true;
        conv_relu_winograd_forward_cpu({conv_shape(sizes), pointer<void>(x), strides(x_stride),
                                        pointer<void>(weight), strides(weight_stride),
                                        pointer<void>(bias), pointer<void>(out),
                                        static_cast<DType>(dtype), threads, &is_finite});
        return is_finite;
      },
      ReleaseGil());
  module.def(
      "conv_relu_winograd_backward_cpu",
      [](const ConvSizes& sizes, uintptr_t grad, uintptr_t out, uintptr_t x,
         const StrideArray& x_stride, uintptr_t weight, const StrideArray& weight_stride,
         uintptr_t grad_x, const StrideArray& grad_x_stride, uintptr_t grad_weight,
         const StrideArray& grad_weight_stride, uintptr_t grad_bias, int dtype, int threads) {
        bool is_finite = true;
        conv_relu_winograd_backward_cpu({conv_shape(sizes), pointer<void>(grad), pointer<void>(out),
                                         pointer<void>(x), strides(x_stride), pointer<void>(weight),
                                         strides(weight_stride), pointer<void>(grad_x),
                                         strides(grad_x_stride), pointer<void>(grad_weight),
                                         strides(grad_weight_stride), pointer<void>(grad_bias),
                                         static_cast<DType>(dtype), threads, &is_finite});
        return is_finite;
      },
      ReleaseGil());
  module.def(
      "conv_relu_mask_cpu",
      [](uintptr_t grad, uintptr_t out, uintptr_t masked, uintptr_t grad_bias, int64_t rows,
         int64_t channels, int dtype, int threads) {
        conv_relu_mask_cpu({pointer<void>(grad), pointer<void>(out), pointer<void>(masked),
                            pointer<void>(grad_bias), rows, channels, static_cast<DType>(dtype),
                            threads});
      },
      ReleaseGil());
}

}  // namespace fastmodel
