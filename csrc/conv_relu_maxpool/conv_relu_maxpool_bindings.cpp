#include <pybind11/stl.h>

#include "common/bindings.h"
#include "conv_relu_maxpool/conv_relu_maxpool.h"

namespace fastmodel {

void bind_conv_relu_maxpool(py::module_& module) {
  module.def(
      "conv_relu_maxpool_forward_cpu",
      [](const ConvSizes& sizes, uintptr_t x, const StrideArray& x_stride, uintptr_t weight,
         const StrideArray& weight_stride, uintptr_t bias, uintptr_t out, uintptr_t argmax,
         int dtype, int threads) {
        conv_relu_maxpool_forward_cpu(
            {conv_shape(sizes), pointer<void>(x), strides(x_stride), pointer<void>(weight),
             strides(weight_stride), pointer<void>(bias), pointer<void>(out),
             pointer<uint8_t>(argmax), static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
  module.def(
      "conv_relu_maxpool_backward_cpu",
      [](const ConvSizes& sizes, uintptr_t grad, uintptr_t argmax, uintptr_t x,
         const StrideArray& x_stride, uintptr_t weight, const StrideArray& weight_stride,
         uintptr_t grad_x, const StrideArray& grad_x_stride, uintptr_t grad_weight,
         const StrideArray& grad_weight_stride, uintptr_t grad_bias, int dtype, int threads) {
        conv_relu_maxpool_backward_cpu(
            {conv_shape(sizes), pointer<void>(grad), pointer<uint8_t>(argmax), pointer<void>(x),
             strides(x_stride), pointer<void>(weight), strides(weight_stride),
             pointer<void>(grad_x), strides(grad_x_stride), pointer<void>(grad_weight),
             strides(grad_weight_stride), pointer<void>(grad_bias), static_cast<DType>(dtype),
             threads});
      },
      ReleaseGil());
  module.def(
      "conv_relu_maxpool_winograd_forward_cpu",
      [](const ConvSizes& sizes, uintptr_t x, const StrideArray& x_stride, uintptr_t weight,
         const StrideArray& weight_stride, uintptr_t bias, uintptr_t out, uintptr_t argmax,
         int dtype, int threads) {
        bool is_finite = true;
        conv_relu_maxpool_winograd_forward_cpu(
            {conv_shape(sizes), pointer<void>(x), strides(x_stride), pointer<void>(weight),
             strides(weight_stride), pointer<void>(bias), pointer<void>(out),
             pointer<uint8_t>(argmax), static_cast<DType>(dtype), threads, &is_finite});
        return is_finite;
      },
      ReleaseGil());
  module.def(
      "conv_relu_maxpool_winograd_backward_cpu",
      [](const ConvSizes& sizes, uintptr_t grad, uintptr_t argmax, uintptr_t x,
         const StrideArray& x_stride, uintptr_t weight, const StrideArray& weight_stride,
         uintptr_t grad_x, const StrideArray& grad_x_stride, uintptr_t grad_weight,
         const StrideArray& grad_weight_stride, uintptr_t grad_bias, int dtype, int threads) {
        bool is_finite = true;
        conv_relu_maxpool_winograd_backward_cpu(
            {conv_shape(sizes), pointer<void>(grad), pointer<uint8_t>(argmax), pointer<void>(x),
             strides(x_stride), pointer<void>(weight), strides(weight_stride),
             pointer<void>(grad_x), strides(grad_x_stride), pointer<void>(grad_weight),
             strides(grad_weight_stride), pointer<void>(grad_bias), static_cast<DType>(dtype),
             threads, &is_finite});
        return is_finite;
      },
      ReleaseGil());
  module.def(
      "conv_relu_maxpool_pool_cpu",
      [](const ConvSizes& sizes, uintptr_t dense, uintptr_t out, uintptr_t argmax, int dtype,
         int threads) {
        conv_relu_maxpool_pool_cpu({conv_shape(sizes), pointer<void>(dense), pointer<void>(out),
                                    pointer<uint8_t>(argmax), static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
  module.def(
      "conv_relu_maxpool_scatter_cpu",
      [](const ConvSizes& sizes, uintptr_t grad, uintptr_t argmax, uintptr_t dense,
         uintptr_t grad_bias, int dtype, int threads) {
        conv_relu_maxpool_scatter_cpu(
            {conv_shape(sizes), pointer<void>(grad), pointer<uint8_t>(argmax), pointer<void>(dense),
             pointer<void>(grad_bias), static_cast<DType>(dtype), threads});
      },
      ReleaseGil());
}

}  // namespace fastmodel
