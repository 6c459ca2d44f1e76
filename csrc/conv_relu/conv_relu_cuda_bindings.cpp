#include <pybind11/stl.h>

#include "common/bindings.h"
#include "conv_relu/conv_relu_cuda.h"

namespace fastmodel {

namespace {

// (images, channels, pixels, are channels last?)
using LayoutArray = std::array<int64_t, 4>;

ImageLayout image_layout(const LayoutArray& a) { return {a[0], a[1], a[2], a[3] != 0}; }

template <void (*kLaunch)(const ConvReluForwardCuda&)>
void def_forward(py::module_& module, const char* name) {
  module.def(
      name,
      [](const ConvSizes& sizes, uintptr_t x, const StrideArray& x_stride, uintptr_t weight,
         const StrideArray& weight_stride, uintptr_t bias, uintptr_t out,
         const StrideArray& out_stride, int dtype, Stream stream) {
        kLaunch({conv_shape(sizes), pointer<void>(x), strides(x_stride), pointer<void>(weight),
                 strides(weight_stride), pointer<void>(bias), pointer<void>(out),
                 strides(out_stride), static_cast<DType>(dtype), stream});
      },
      ReleaseGil());
}

template <void (*kLaunch)(const ConvReluBackwardCuda&)>
void def_backward(py::module_& module, const char* name) {
  module.def(
      name,
      [](const ConvSizes& sizes, uintptr_t grad, uintptr_t out, uintptr_t x,
         const StrideArray& x_stride, uintptr_t weight, const StrideArray& weight_stride,
         uintptr_t grad_x, const StrideArray& grad_x_stride, uintptr_t grad_weight,
         const StrideArray& grad_weight_stride, uintptr_t grad_bias, uintptr_t partial,
         int64_t splits, int dtype, Stream stream) {
        kLaunch({conv_shape(sizes), pointer<void>(grad), pointer<void>(out), pointer<void>(x),
                 strides(x_stride), pointer<void>(weight), strides(weight_stride),
                 pointer<void>(grad_x), strides(grad_x_stride), pointer<void>(grad_weight),
                 strides(grad_weight_stride), pointer<void>(grad_bias), pointer<float>(partial),
                 splits, static_cast<DType>(dtype), stream});
      },
      ReleaseGil());
}

}  // namespace

void bind_conv_relu_cuda(py::module_& module) {
  module.def("conv_relu_direct_fits_cuda",
             [](const ConvSizes& sizes) { return conv_relu_direct_fits_cuda(conv_shape(sizes)); });
  def_forward<conv_relu_direct_forward_cuda>(module, "conv_relu_direct_forward_cuda");
  def_forward<conv_relu_depthwise_forward_cuda>(module, "conv_relu_depthwise_forward_cuda");
  def_forward<conv_relu_gemm_forward_cuda>(module, "conv_relu_gemm_forward_cuda");
  def_backward<conv_relu_direct_backward_cuda>(module, "conv_relu_direct_backward_cuda");
  def_backward<conv_relu_depthwise_backward_cuda>(module, "conv_relu_depthwise_backward_cuda");
  module.def(
      "conv_relu_epilogue_cuda",
      [](const LayoutArray& layout, uintptr_t out, uintptr_t bias, int dtype, Stream stream) {
        conv_relu_epilogue_cuda({image_layout(layout), pointer<void>(out), pointer<void>(bias),
                                 static_cast<DType>(dtype), stream});
      },
      ReleaseGil());
  module.def(
      "conv_relu_mask_cuda",
      [](const LayoutArray& layout, uintptr_t grad, uintptr_t out, uintptr_t masked,
         uintptr_t grad_bias, uintptr_t partial, int64_t splits, int dtype, Stream stream) {
        conv_relu_mask_cuda({image_layout(layout), pointer<void>(grad), pointer<void>(out),
                             pointer<void>(masked), pointer<void>(grad_bias),
                             pointer<float>(partial), splits, static_cast<DType>(dtype), stream});
      },
      ReleaseGil());
}

}  // namespace fastmodel
