#include <pybind11/stl.h>

#include <memory>
#include <tuple>

#include "common/bindings.h"
#include "common/cuda_tensor_chunks.h"
#include "probe/probe.h"

namespace fastmodel {
namespace {

// The chunks (tensor, begin, end) of every launch over tensors of these sizes, as kernels find
// them.
std::vector<std::vector<std::tuple<size_t, int64_t, int64_t>>> chunks_of(
    const std::vector<int64_t>& sizes, int multiprocessors, bool must_part) {
  std::vector<std::vector<std::tuple<size_t, int64_t, int64_t>>> launches;
  const int64_t chunk_elements = chunk_elements_for(total_of(sizes), multiprocessors);
  for_each_launch<64>(sizes, chunk_elements, must_part, [&](LaunchRange range, auto capacity) {
    const auto table = std::make_unique<ChunkTable<1, capacity>>();
    fill_chunks(table.get(), sizes, range, chunk_elements);
    auto& chunks = launches.emplace_back();
    for (int block = 0; block < table->first_chunks[table->tensors]; ++block) {
      const Chunk chunk = chunk_of(*table, block);
      chunks.emplace_back(range.begin + chunk.tensor, chunk.begin, chunk.end);
    }
  });
  return launches;
}

}  // namespace

void bind_probe_cuda(py::module_& module) {
  module.def(
      "probe_block_sum_cuda",
      [](uintptr_t x, int64_t blocks, uintptr_t sums, Stream stream) {
        probe_block_sum_cuda(pointer<float>(x), blocks, pointer<float>(sums), stream);
      },
      ReleaseGil());
  module.def(
      "probe_warp_cuda",
      [](uintptr_t x, uintptr_t out, Stream stream) {
        probe_warp_cuda(pointer<int>(x), pointer<int>(out), stream);
      },
      ReleaseGil());
  module.def(
      "probe_product_cuda",
      [](uintptr_t a, uintptr_t b, uintptr_t c, int dtype, Stream stream) {
        probe_product_cuda(pointer<void>(a), pointer<void>(b), pointer<float>(c),
                           static_cast<DType>(dtype), stream);
      },
      ReleaseGil());
  module.def(
      "probe_reverse_cuda",
      [](uintptr_t x, uintptr_t y, int count, int inside, Stream stream) {
        probe_reverse_cuda(pointer<float>(x), pointer<float>(y), count, inside, stream);
      },
      ReleaseGil());
  module.def(
      "probe_round_cuda",
      [](uintptr_t x, uintptr_t y, int64_t count, int dtype, Stream stream) {
        probe_round_cuda(pointer<float>(x), pointer<float>(y), count, static_cast<DType>(dtype),
                         stream);
      },
      ReleaseGil());
  module.def("probe_chunks", &chunks_of);
  module.def("probe_chunk_elements", &chunk_elements_for);
  module.def("probe_have_overlap", [](const std::vector<uintptr_t>& addresses,
                                      const std::vector<int64_t>& sizes, int64_t element_bytes) {
    std::vector<void*> pointers;
    for (const uintptr_t address : addresses) pointers.push_back(pointer<void>(address));
    return have_overlap(pointers, sizes, element_bytes);
  });
#if defined(FASTMODEL_CUDA_EMULATED)
  py::enum_<CudaFault>(module, "CudaFault")
      .value("missing_barrier", CudaFault::kMissingBarrier)
      .value("missing_barrier_behind", CudaFault::kMissingBarrierBehind)
      .value("divergent_barrier", CudaFault::kDivergentBarrier)
      .value("divergent_collectives", CudaFault::kDivergentCollectives)
      .value("partial_warp", CudaFault::kPartialWarp)
      .value("shared_index", CudaFault::kSharedIndex)
      .value("shared_overrun", CudaFault::kSharedOverrun)
      .value("misaligned", CudaFault::kMisaligned)
      .value("missing_wait", CudaFault::kMissingWait)
      .value("none", CudaFault::kNone);
  module.def(
      "probe_fault_cuda",
      [](CudaFault fault, uintptr_t x, uintptr_t y, int blocks, Stream stream) {
        probe_fault_cuda(fault, pointer<float>(x), pointer<float>(y), blocks, stream);
      },
      ReleaseGil());
#endif
}

}  // namespace fastmodel
