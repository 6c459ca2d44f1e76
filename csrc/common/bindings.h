// What every <op>_bindings.cpp shares: addresses arrive from Python as integers.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace fastmodel {

namespace py = pybind11;

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Kernels touch no Python object: the GIL is released around each of them.
using ReleaseGil = py::call_guard<py::gil_scoped_release>;

}  // namespace fastmodel
