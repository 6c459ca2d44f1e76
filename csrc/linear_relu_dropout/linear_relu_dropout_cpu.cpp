// The dropout of linear_relu_dropout on the CPU, over what the product has just left in cache.
//
// Bytes: out read and written once. 64 elements take some 20 vector instructions a round of the
// generator with AVX-512, so the generator is the floor: at 8,192 elements three microseconds,
// where moving them takes half of one.
#include "common/random_bits.h"
#include "common/threads.h"
#include "common/vectors.h"
#include "linear_relu_dropout/linear_relu_dropout.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

// A thread takes at least this many elements: some 10 us of work, against a few to start a team.
constexpr int64_t kElementsPerThread = 32768;

template <typename T>
void dropout(const LinearReluDropout& a) {
  T* out = static_cast<T*>(a.out);
  // A threshold past the last random number keeps none.
  const UVec threshold = UVec{} + static_cast<uint32_t>(a.threshold);
  const Vec scale = broadcast(a.threshold >> 32 ? 0.0f : a.scale);
  const int threads = static_cast<int>(
      std::min<int64_t>(a.threads, std::max<int64_t>(a.size / kElementsPerThread, 1)));
  const int64_t blocks = (a.size + kRandomBlock - 1) / kRandomBlock;
  parallel_for(blocks, threads, [&](int64_t begin, int64_t end, int) {
    for_each_with_bits(begin * kRandomBlock, std::min(end * kRandomBlock, a.size), 0, 0, a.seed,
                       [&](int64_t i, int lanes, UVec random) __attribute__((always_inline)) {
                         // Times 0, as PyTorch has it: what is NaN or infinite is NaN where it is
                         // dropped.
                         const Vec factor = random >= threshold ? scale : Vec{};
                         store_first(out + i, load_first(out + i, lanes) * factor, lanes);
                       });
  });
}

}  // namespace

void linear_relu_dropout_cpu(const LinearReluDropout& args) {
  args.dtype == DType::kFloat32 ? dropout<float>(args) : dropout<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
