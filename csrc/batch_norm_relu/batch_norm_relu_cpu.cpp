// FLOPs: a few for each element, nowhere near the floor that memory sets.
// Bytes, for b = 4 or 2 a value of which there are M: PyTorch's training forward reads x twice and
// writes the normalised value, its ReLU in place reads and writes that (5 M b); backward of the
// ReLU reads grad and out and writes (3 M b), that of the batch norm reads x and grad twice and
// writes grad_x (5 M b): 13 M b. Here forward reads x twice and writes out (3 M b), backward reads
// x and grad twice and writes grad_x (5 M b), with the ReLU's mask found again from x: 8 M b. The
// second reads come from cache where a channel's planes (contiguous, of the whole batch), or the
// tail of a thread's share (channels_last), fit there: then 2 + 3 = 5 M b are left from memory. At
// 26 GB/s, a copy counted read + write, 16 images of 64 channels of 56 x 56 (12.8 MB) take at
// least 2.5 ms forward and backward, PyTorch's traffic 6.4 ms.
//
// Statistics: chunk by chunk, from the distances to the mean of the chunks before; the first chunk
// is swept for its own mean before. The chunks' moments are put together in float64. Of the squares
// of a chunk of n values behind N others at most the share n / (n + N) is taken off again: so a
// mean far from 0 costs no digit of the variance.
#include "batch_norm_relu/batch_norm_relu.h"
#include "batch_norm_relu/planes.h"
#include "batch_norm_relu/rows.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// A thread takes at least this many values: some 5 us of work, against a few to start a team.
constexpr int64_t kValuesPerThread = 16384;

int64_t values_of(const BatchNormReluProblem& p) { return p.images * p.channels * p.pixels; }

int threads_for(const BatchNormReluProblem& p) {
  return static_cast<int>(
      std::min<int64_t>(p.threads, std::max<int64_t>(1, values_of(p) / kValuesPerThread)));
}

}  // namespace

void batch_norm_relu_forward_cpu(const BatchNormReluForward& args) {
  const BatchNormReluProblem& p = args.problem;
  if (values_of(p) == 0) return;
  const int threads = threads_for(p);
  if (p.dtype == DType::kFloat32) {
    p.is_channels_last ? forward_rows<float>(args, threads) : forward_planes<float>(args, threads);
  } else {
    p.is_channels_last ? forward_rows<BFloat16>(args, threads)
                       : forward_planes<BFloat16>(args, threads);
  }
}

void batch_norm_relu_backward_cpu(const BatchNormReluBackward& args) {
  const BatchNormReluProblem& p = args.problem;
  if (values_of(p) == 0) {
    for (int64_t c = 0; c < p.channels; ++c) store_gradients(args, Channel{}, GradientSums{}, c);
    return;
  }
  const int threads = threads_for(p);
  if (p.dtype == DType::kFloat32) {
    p.is_channels_last ? backward_rows<float>(args, threads)
                       : backward_planes<float>(args, threads);
  } else {
    p.is_channels_last ? backward_rows<BFloat16>(args, threads)
                       : backward_planes<BFloat16>(args, threads);
  }
}

void batch_norm_relu_update_cpu(const BatchNormReluUpdate& args) {
  const double count = static_cast<double>(args.count), unbiased = count / (count - 1.0);
  const auto step = [&](float* running, double value) {
    *running = static_cast<float>(args.momentum * value + (1.0 - args.momentum) * *running);
  };
  for (int64_t c = 0; c < args.channels; ++c) {
    step(args.running_mean + c, args.mean[c]);
    step(args.running_var + c, args.var[c] * unbiased);
  }
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
