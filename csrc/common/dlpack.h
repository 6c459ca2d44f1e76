// The part of DLPack 1.x that reads a tensor without owning it. The structures and their order are
// the standard's C ABI (https://dmlc.github.io/dlpack), which PyTorch offers to extensions as
// `torch.Tensor.__dlpack_c_exchange_api__`: no libtorch needed, and no tie to a version of it.
#pragma once

#include <cstdint>

namespace fastmodel::dlpack {

constexpr const char* kCapsuleName = "dlpack_exchange_api";
constexpr uint32_t kMajorVersion = 1;
constexpr int32_t kCpu = 1, kCuda = 2;
constexpr uint8_t kFloat = 2, kBfloat = 4;

struct Tensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct ExchangeApi {
  struct {
    uint32_t major, minor;
  } version;
  void* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object, Tensor* out);  // 0, or -1 with a Python error set
  void* current_work_stream;
};

}  // namespace fastmodel::dlpack
