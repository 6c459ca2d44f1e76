// The dropout of linear_relu_dropout on the CPU.
//
// A block of the generator is 20 products of 32 bits and about 60 other integer operations for four
// elements; kBlocks of them run side by side in vectors. At 8,192 elements that is a few
// microseconds, with out in L1 or L2.
#include "common/threads.h"
#include "common/vectors.h"
#include "linear_relu_dropout/linear_relu_dropout.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

constexpr int kBlocks = kLanes;

// A thread takes at least this many elements: some 10 us of work, against a few to start a team.
constexpr int64_t kElementsPerThread = 16384;

struct Words {
  uint32_t word[4][kBlocks];
};

// Blocks first .. first + kBlocks - 1, each with its number as counter and the seed as key.
FASTMODEL_INLINE void philox(uint64_t first, uint64_t seed, Words& out) {
  uint32_t a[kBlocks], b[kBlocks], c[kBlocks], d[kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    a[i] = static_cast<uint32_t>(first + i);
    b[i] = static_cast<uint32_t>((first + i) >> 32);
    c[i] = d[i] = 0;
  }
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kBlocks; ++i) {
      const uint64_t left = uint64_t{0xD2511F53} * a[i], right = uint64_t{0xCD9E8D57} * c[i];
      a[i] = static_cast<uint32_t>(right >> 32) ^ b[i] ^ key0;
      b[i] = static_cast<uint32_t>(right);
      c[i] = static_cast<uint32_t>(left >> 32) ^ d[i] ^ key1;
      d[i] = static_cast<uint32_t>(left);
    }
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  for (int i = 0; i < kBlocks; ++i) {
    out.word[0][i] = a[i];
    out.word[1][i] = b[i];
    out.word[2][i] = c[i];
    out.word[3][i] = d[i];
  }
}

template <typename T>
void dropout(const LinearReluDropout& a) {
  constexpr int64_t kElements = 4 * kBlocks;
  T* out = static_cast<T*>(a.out);
  const int threads = static_cast<int>(
      std::min<int64_t>(a.threads, std::max<int64_t>(a.size / kElementsPerThread, 1)));
  parallel_for((a.size + kElements - 1) / kElements, threads, [&](int64_t begin, int64_t end, int) {
    Words random;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      philox(static_cast<uint64_t>(chunk) * kBlocks, a.seed, random);
      float factor[kElements];
      for (int i = 0; i < kBlocks; ++i) {
        for (int w = 0; w < 4; ++w) {
          factor[4 * i + w] = random.word[w][i] >= a.threshold ? a.scale : 0.0f;
        }
      }
      T* own = out + chunk * kElements;
      const int64_t count = std::min(kElements, a.size - chunk * kElements);
      for (int64_t i = 0; i < count; i += kLanes) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, count - i));
        // Times 0, as PyTorch has it: what is NaN or infinite is NaN where it is dropped.
        store_first(own + i, load_first(own + i, lanes) * load(factor + i), lanes);
      }
    }
  });
}

}  // namespace

void linear_relu_dropout_cpu(const LinearReluDropout& args) {
  args.dtype == DType::kFloat32 ? dropout<float>(args) : dropout<BFloat16>(args);
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
