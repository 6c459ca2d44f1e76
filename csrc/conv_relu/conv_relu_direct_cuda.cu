// conv_relu by the direct kernels: see common/conv_direct.cuh and common/conv_filter_gradient.cuh.
#include "common/conv_direct.cuh"
#include "common/conv_filter_gradient.cuh"
#include "conv_relu/conv_relu_cuda.h"

namespace fastmodel {
namespace {

constexpr const char* kOp = "conv_relu";

// Every pixel of the output whose ReLU lives; grad and out are (N, P, Q, K).
template <typename T>
struct LivePixels {
  const T* grad;
  const T* out;
  int height, width, channels;

  __device__ __forceinline__ bool find(int64_t n, int h, int w, int k, float& g, int& p,
                                       int& q) const {
    const int64_t at = ((n * height + h) * width + w) * channels + k;
    g = to_float(grad[at]), p = h, q = w;
    return g != 0.0f && !(to_float(out[at]) <= 0.0f);
  }
};

}  // namespace

bool conv_relu_direct_fits_cuda(const ConvShape& shape) {
  return direct_fits(direct_shape(shape, false));
}

void conv_relu_direct_forward_cuda(const ConvReluForwardCuda& a) {
  const ConvShape& shape = a.shape;
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    const Strides& o = a.out_stride;
    const bool is_packed = o.d1 == 1 && (o.d0 | o.d2 | o.d3 | shape.k) % kThreadChannels == 0 &&
                           is_pack_aligned(a.out);
    const ImageSource<T> source{static_cast<const T*>(a.x), a.x_stride};
    const ImageSink<T, true> sink{static_cast<T*>(a.out),
                                  o,
                                  static_cast<const T*>(a.bias),
                                  static_cast<int>(shape.k),
                                  static_cast<int>(shape.p),
                                  static_cast<int>(shape.q),
                                  is_packed};
    direct_convolution(kOp, direct_shape(shape, false), source, static_cast<const T*>(a.weight),
                       a.weight_stride, sink, a.stream);
  });
}

void conv_relu_direct_backward_cuda(const ConvReluBackwardCuda& a) {
  const ConvShape& shape = a.shape;
  with_element_type(a.dtype, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    const LivePixels<T> source{static_cast<const T*>(a.grad), static_cast<const T*>(a.out),
                               static_cast<int>(shape.p), static_cast<int>(shape.q),
                               static_cast<int>(shape.k)};
    filter_gradient(kOp, filter_shape(shape, shape.p, shape.q), source, static_cast<const T*>(a.x),
                    a.x_stride, static_cast<T*>(a.grad_weight), a.grad_weight_stride,
                    static_cast<T*>(a.grad_bias), a.partial, a.splits, a.stream);
  });
}

}  // namespace fastmodel
