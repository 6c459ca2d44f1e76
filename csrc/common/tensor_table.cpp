#include "common/tensor_table.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "common/bindings.h"
#include "common/dlpack.h"

namespace fastmodel {
namespace {

int64_t size_of(const dlpack::Tensor& tensor) {
  int64_t size = 1;
  for (int i = 0; i < tensor.ndim; ++i) size *= tensor.shape[i];
  return size;
}

// Do the strides of `tensor`, in some order of its dimensions, walk memory without gap or overlap?
bool is_dense(const dlpack::Tensor& tensor) {
  if (size_of(tensor) == 0) return true;
  int64_t expected = 1;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] == 1) continue;
    if (tensor.strides[i] != expected) break;
    expected *= tensor.shape[i];
    if (i == 0) return true;
  }
  std::vector<std::pair<int64_t, int64_t>> steps;
  for (int i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] != 1) steps.emplace_back(tensor.strides[i], tensor.shape[i]);
  }
  std::sort(steps.begin(), steps.end());
  expected = 1;
  for (const auto& [stride, size] : steps) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// Same shape, and equal offsets mean equal elements: the strides of dimensions of one element do
// not count.
bool has_same_layout(const dlpack::Tensor& a, const dlpack::Tensor& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
  }
  if (size_of(a) == 0) return true;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != 1 && a.strides[i] != b.strides[i]) return false;
  }
  return true;
}

std::optional<DType> dtype_of(const dlpack::Tensor& tensor) {
  if (tensor.dtype.lanes != 1) return std::nullopt;
  if (tensor.dtype.code == dlpack::kFloat && tensor.dtype.bits == 32) return DType::kFloat32;
  if (tensor.dtype.code == dlpack::kBfloat && tensor.dtype.bits == 16) return DType::kBFloat16;
  return std::nullopt;
}

class Reader {
 public:
  Reader(const py::object& exchange_api, const py::tuple& types) : types_(types) {
    api_ = static_cast<const dlpack::ExchangeApi*>(
        PyCapsule_GetPointer(exchange_api.ptr(), dlpack::kCapsuleName));
    if (api_ == nullptr) throw py::error_already_set();
    if (api_->version.major != dlpack::kMajorVersion || api_->tensor_from_object == nullptr) {
      throw std::invalid_argument("tensor table: DLPack's exchange API is of another version");
    }
  }

  // False if the object is not exactly one of the types, or no strided tensor on the CPU.
  bool read(PyObject* object, dlpack::Tensor* out) const {
    bool is_known = false;
    for (const py::handle type : types_) {
      is_known |= Py_TYPE(object) == reinterpret_cast<PyTypeObject*>(type.ptr());
    }
    if (!is_known) return false;
    if (api_->tensor_from_object(object, out) != 0) {
      PyErr_Clear();
      return false;
    }
    out->data = static_cast<char*>(out->data) + out->byte_offset;
    return out->device.type == dlpack::kCpu && (out->data != nullptr || size_of(*out) == 0);
  }

 private:
  const dlpack::ExchangeApi* api_;
  py::tuple types_;
};

// None unless every tensor lies on the CPU with storage, all have one dtype that kernels take, and
// each is laid out as the first of its row, which is dense.
std::optional<TensorTable> read_table(const py::object& exchange_api, const py::tuple& types,
                                      const std::vector<py::list>& columns, const py::list& steps) {
  const Reader reader(exchange_api, types);
  TensorTable table;
  const size_t rows = columns.at(0).size();
  table.sizes.reserve(rows);
  table.columns.resize(columns.size());
  for (auto& column : table.columns) column.reserve(rows);
  dlpack::Tensor lead, other;
  for (size_t row = 0; row < rows; ++row) {
    if (!reader.read(PyList_GET_ITEM(columns[0].ptr(), row), &lead) || !is_dense(lead)) {
      return std::nullopt;
    }
    const std::optional<DType> dtype = dtype_of(lead);
    if (!dtype || (row > 0 && *dtype != table.dtype)) return std::nullopt;
    table.dtype = *dtype;
    table.sizes.push_back(size_of(lead));
    table.columns[0].push_back(lead.data);
    for (size_t c = 1; c < columns.size(); ++c) {
      if (columns[c].size() != rows) throw std::invalid_argument("tensor table: ragged columns");
      if (!reader.read(PyList_GET_ITEM(columns[c].ptr(), row), &other) ||
          dtype_of(other) != dtype || !has_same_layout(lead, other)) {
        return std::nullopt;
      }
      table.columns[c].push_back(other.data);
    }
  }
  table.steps.reserve(steps.size());
  for (const py::handle step : steps) {
    if (!reader.read(step.ptr(), &other) || dtype_of(other) != DType::kFloat32 ||
        size_of(other) != 1) {
      return std::nullopt;
    }
    table.steps.push_back(static_cast<float*>(other.data));
  }
  return table;
}

TensorTable table_of_addresses(const std::vector<std::vector<uintptr_t>>& columns,
                               const std::vector<uintptr_t>& steps, std::vector<int64_t> sizes,
                               int dtype) {
  TensorTable table;
  for (const auto& addresses : columns) {
    if (addresses.size() != sizes.size()) {
      throw std::invalid_argument("tensor table: ragged columns");
    }
    auto& column = table.columns.emplace_back();
    for (const uintptr_t address : addresses) column.push_back(pointer<void>(address));
  }
  for (const uintptr_t address : steps) table.steps.push_back(pointer<float>(address));
  table.sizes = std::move(sizes);
  table.dtype = static_cast<DType>(dtype);
  return table;
}

}  // namespace

void bind_tensor_table(py::module_& module) {
  py::class_<TensorTable>(module, "TensorTable");
  module.def("read_tensor_table", &read_table);
  module.def("tensor_table_of_addresses", &table_of_addresses);
}

}  // namespace fastmodel
