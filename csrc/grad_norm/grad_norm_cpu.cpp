// grad_norm on the CPU: every gradient is read once.
//
// Bytes a parameter: 4 in float32, 2 in bfloat16. FLOPs: 2, in float64, where no square of a
// float32 overflows: two conversions and two FMAs for a vector of 64 bytes, which memory takes
// longer to deliver. Each chunk has a sum of its own and they are added in order: the same bits for
// every number of threads.
#include "common/prefetch.h"
#include "common/tensor_list.h"
#include "common/vectors.h"
#include "grad_norm/grad_norm.h"

namespace fastmodel::FASTMODEL_CAPABILITY {
namespace {

typedef float HalfVec __attribute__((vector_size(kLanes * 2)));
typedef double DoubleVec __attribute__((vector_size(kLanes * 4)));

struct Sums {
  DoubleVec low{}, high{};
};

// GCC 12 takes conversions of 512 bits apart.
FASTMODEL_INLINE DoubleVec widen(HalfVec v) {
#if defined(__AVX512F__)
  return reinterpret_cast<DoubleVec>(_mm512_maskz_cvtps_pd(0xFF, reinterpret_cast<__m256>(v)));
#else
  return __builtin_convertvector(v, DoubleVec);
#endif
}

FASTMODEL_INLINE void add_squares(Sums& sums, Vec v) {
  HalfVec halves[2];
  std::memcpy(halves, &v, sizeof(v));
  const DoubleVec low = widen(halves[0]), high = widen(halves[1]);
  sums.low += low * low;
  sums.high += high * high;
}

template <typename T>
void add_squares(Sums (&sums)[2], const T* g, int64_t begin, int64_t end, int64_t size) {
  int64_t i = begin;
  for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
    prefetch(i, size, g);
    prefetch(i + kLanes, size, g);
    add_squares(sums[0], load(g + i));
    add_squares(sums[1], load(g + i + kLanes));
  }
  for (; i < end; i += kLanes) {
    add_squares(sums[0], load_first(g + i, static_cast<int>(std::min<int64_t>(end - i, kLanes))));
  }
}

double total(const Sums (&sums)[2]) {
  const DoubleVec lanes = (sums[0].low + sums[1].low) + (sums[0].high + sums[1].high);
  double sum = 0.0;
  for (int l = 0; l < kLanes / 2; ++l) sum += lanes[l];
  return sum;
}

}  // namespace

void grad_square_sum_cpu(const GradSquareSum& args) {
  std::vector<const TensorTable*> tables;
  for (const TensorTablePtr& table : args.tables) tables.push_back(table.get());
  const TensorList list(tables);
  std::vector<double> partial(list.chunks());
  for_each_chunk(list.chunks(), args.threads, [&](int64_t chunk) {
    Sums sums[2];
    list.for_each_piece(chunk, [&](uint32_t table, uint32_t t, int64_t begin, int64_t end) {
      const void* const g = tables[table]->columns[1][t];
      const int64_t size = tables[table]->sizes[t];
      if (tables[table]->dtype == DType::kFloat32) {
        add_squares(sums, static_cast<const float*>(g), begin, end, size);
      } else {
        add_squares(sums, static_cast<const BFloat16*>(g), begin, end, size);
      }
    });
    partial[chunk] = total(sums);
  });
  for (const double sum : partial) args.sum += sum;
}

}  // namespace fastmodel::FASTMODEL_CAPABILITY
