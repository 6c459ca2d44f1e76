#include <pybind11/stl.h>

#include "common/bindings.h"
#include "conv_relu_maxpool/conv_relu_maxpool_cuda.h"

namespace fastmodel {

void bind_conv_relu_maxpool_cuda(py::module_& module) {
  module.def("conv_relu_maxpool_direct_fits_cuda", [](const ConvSizes& sizes, bool is_grad_x) {
    return conv_relu_maxpool_direct_fits_cuda(conv_shape(sizes), is_grad_x);
  });
  module.def(
      "conv_relu_maxpool_direct_forward_cuda",
      [](const ConvSizes& sizes, uintptr_t x, const StrideArray& x_stride, uintptr_t weight,
         const StrideArray& weight_stride, uintptr_t bias, uintptr_t out, uintptr_t argmax,
         int dtype, Stream stream) {
        conv_relu_maxpool_direct_forward_cuda(
            {conv_shape(sizes), pointer<void>(x), strides(x_stride), pointer<void>(weight),
             strides(weight_stride), pointer<void>(bias), pointer<void>(out),
             pointer<uint8_t>(argmax), static_cast<DType>(dtype), stream});
      },
      ReleaseGil());
  module.def(
      "conv_relu_maxpool_direct_backward_cuda",
      [](const ConvSizes& sizes, uintptr_t grad, uintptr_t argmax, uintptr_t x,
         const StrideArray& x_stride, uintptr_t weight, const StrideArray& weight_stride,
         uintptr_t grad_x, const StrideArray& grad_x_stride, uintptr_t grad_weight,
         const StrideArray& grad_weight_stride, uintptr_t grad_bias, uintptr_t partial,
         int64_t splits, int dtype, Stream stream) {
        conv_relu_maxpool_direct_backward_cuda(
            {conv_shape(sizes), pointer<void>(grad), pointer<uint8_t>(argmax), pointer<void>(x),
             strides(x_stride), pointer<void>(weight), strides(weight_stride),
             pointer<void>(grad_x), strides(grad_x_stride), pointer<void>(grad_weight),
             strides(grad_weight_stride), pointer<void>(grad_bias), pointer<float>(partial), splits,
             static_cast<DType>(dtype), stream});
      },
      ReleaseGil());
  module.def(
      "conv_relu_maxpool_pool_cuda",
      [](const ConvSizes& sizes, uintptr_t dense, uintptr_t bias, uintptr_t out, uintptr_t argmax,
         int dtype, Stream stream) {
        conv_relu_maxpool_pool_cuda({conv_shape(sizes), pointer<void>(dense), pointer<void>(bias),
                                     pointer<void>(out), pointer<uint8_t>(argmax),
                                     static_cast<DType>(dtype), stream});
      },
      ReleaseGil());
  module.def(
      "conv_relu_maxpool_scatter_cuda",
      [](const ConvSizes& sizes, uintptr_t grad, uintptr_t argmax, uintptr_t dense,
         uintptr_t grad_bias, uintptr_t partial, int64_t splits, int dtype, Stream stream) {
        conv_relu_maxpool_scatter_cuda({conv_shape(sizes), pointer<void>(grad),
                                        pointer<uint8_t>(argmax), pointer<void>(dense),
                                        pointer<void>(grad_bias), pointer<float>(partial), splits,
                                        static_cast<DType>(dtype), stream});
      },
      ReleaseGil());
}

}  // namespace fastmodel
