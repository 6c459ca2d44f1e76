#include <pybind11/stl.h>

#include <array>

#include "batch_norm_relu/batch_norm_relu.h"
#include "common/bindings.h"

namespace fastmodel {

namespace {

// images, channels, pixels
using Sizes = std::array<int64_t, 3>;

BatchNormReluProblem problem(uintptr_t x, uintptr_t weight, uintptr_t bias, const Sizes& sizes,
                             bool is_channels_last, bool is_training, double eps, int dtype,
                             int threads) {
  return {pointer<void>(x),
          pointer<float>(weight),
          pointer<float>(bias),
          sizes[0],
          sizes[1],
          sizes[2],
          is_channels_last,
          is_training,
          eps,
          static_cast<DType>(dtype),
          threads};
}

}  // namespace

void bind_batch_norm_relu(py::module_& module) {
  module.def(
      "batch_norm_relu_forward_cpu",
      [](uintptr_t x, uintptr_t weight, uintptr_t bias, const Sizes& sizes, bool is_channels_last,
         bool is_training, double eps, int dtype, int threads, uintptr_t mean, uintptr_t var,
         uintptr_t out) {
        batch_norm_relu_forward_cpu(
            {problem(x, weight, bias, sizes, is_channels_last, is_training, eps, dtype, threads),
             pointer<float>(mean), pointer<float>(var), pointer<void>(out)});
      },
      ReleaseGil());
  module.def(
      "batch_norm_relu_backward_cpu",
      [](uintptr_t x, uintptr_t weight, uintptr_t bias, const Sizes& sizes, bool is_channels_last,
         bool is_training, double eps, int dtype, int threads, uintptr_t grad, uintptr_t mean,
         uintptr_t var, uintptr_t grad_x, uintptr_t grad_weight, uintptr_t grad_bias) {
        batch_norm_relu_backward_cpu(
            {problem(x, weight, bias, sizes, is_channels_last, is_training, eps, dtype, threads),
             pointer<void>(grad), pointer<float>(mean), pointer<float>(var), pointer<void>(grad_x),
             pointer<float>(grad_weight), pointer<float>(grad_bias)});
      },
      ReleaseGil());
  module.def(
      "batch_norm_relu_update_cpu",
      [](uintptr_t running_mean, uintptr_t running_var, uintptr_t mean, uintptr_t var,
         int64_t channels, int64_t count, double momentum) {
        batch_norm_relu_update_cpu({pointer<float>(running_mean), pointer<float>(running_var),
                                    pointer<float>(mean), pointer<float>(var), channels, count,
                                    momentum});
      },
      ReleaseGil());
}

}  // namespace fastmodel
