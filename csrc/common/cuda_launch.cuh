// launch: the one way to start a kernel. Checked, on the stream's device; an empty grid does
// nothing.
//
// Under FASTMODEL_SYNC=1 each launch is waited for, so that what fails while it runs is reported at
// the op that caused it; not while the stream is captured into a graph.
#pragma once

#include <string>
#include <tuple>
#include <utility>

#include "common/cuda_platform.cuh"
#include "common/cuda_stream.h"

#if defined(__CUDACC__)
#include <cstdlib>
#include <stdexcept>
#endif

namespace fastmodel {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

#if defined(__CUDACC__)

inline void check_cuda(const char* op, const char* what, cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a launch that failed is told once
  throw std::runtime_error(std::string(op) + ": " + what +
                           " failed: " + cudaGetErrorString(status));
}

// Makes a device current for as long as it lives.
class DeviceGuard {
 public:
  DeviceGuard(const char* op, int device) : device_(device) {
    check_cuda(op, "reading the current device", cudaGetDevice(&before_));
    if (before_ != device_) check_cuda(op, "choosing the device", cudaSetDevice(device_));
  }
  ~DeviceGuard() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_;
  int before_ = 0;
};

inline bool is_synchronous() {
  static const bool is_set = [] {
    const char* const value = std::getenv("FASTMODEL_SYNC");
    return value != nullptr && std::string(value) == "1";
  }();
  return is_set;
}

// Shared memory beyond this must be asked for.
constexpr size_t kDefaultSharedBytes = 48 * 1024;

template <typename... Params, typename... Args>
void launch(const char* op, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream stream, Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const DeviceGuard guard(op, stream.device);
  const auto handle = reinterpret_cast<cudaStream_t>(stream.handle);
  const auto entry = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > kDefaultSharedBytes) {
    check_cuda(op, "asking for shared memory",
               cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)));
  }
  std::tuple<Params...> params(std::forward<Args>(args)...);
  std::apply(
      [&](auto&... each) {
        void* addresses[] = {static_cast<void*>(&each)...};
        check_cuda(op, "launching a kernel",
                   cudaLaunchKernel(entry, grid, block, addresses, shared_bytes, handle));
      },
      params);
  if (is_synchronous()) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_cuda(op, "looking at the stream", cudaStreamIsCapturing(handle, &capture));
    if (capture == cudaStreamCaptureStatusNone) {
      check_cuda(op, "running a kernel", cudaStreamSynchronize(handle));
    }
  }
}

// Multiprocessors of the stream's device.
inline int multiprocessors(const char* op, Stream stream) {
  int count = 0;
  check_cuda(op, "reading the device",
             cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, stream.device));
  return count;
}

#else

template <typename... Params, typename... Args>
void launch(const char* op, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
            Stream, Args&&... args) {
  const std::tuple<Params...> params(std::forward<Args>(args)...);
  emulation::run(op, grid, block, shared_bytes, [&] { std::apply(kernel, params); });
}

// Few, so that small tests reach what every block does more than once.
inline int multiprocessors(const char*, Stream) { return 2; }

#endif

}  // namespace fastmodel
