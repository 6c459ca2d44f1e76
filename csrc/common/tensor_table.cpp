// Reads an optimizer's tensors into a TensorTable. Addresses are read anew in every step: `.data`,
// `.grad` and the state may have been replaced since, and only a look tells. The look (some 45 ns a
// tensor through DLPack, and as long as memory takes to show it) is nearly all of the cost, so a
// table that was kept and compared would save nothing over one that is made again.
#include "common/tensor_table.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "common/bindings.h"
#include "common/object_prefetch.h"
#include "common/tensor_layout.h"

namespace fastmodel {
namespace {

// Reads tensors that are exactly of one of the given types.
class TensorReader {
 public:
  TensorReader(const py::object& exchange_api, py::tuple types, py::object is_neg,
               const TensorPrefetcher& prefetcher)
      : prefetcher(prefetcher), types_(std::move(types)), is_neg_(std::move(is_neg)) {
    api_ = static_cast<const dlpack::ExchangeApi*>(
        PyCapsule_GetPointer(exchange_api.ptr(), dlpack::kCapsuleName));
    if (api_ == nullptr) throw py::error_already_set();
    if (api_->version.major != dlpack::kMajorVersion || api_->tensor_from_object == nullptr) {
      throw std::invalid_argument("tensor table: DLPack's exchange API is of another version");
    }
  }

  // False if the object is not exactly one of the types, or no strided tensor.
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
    return out->data != nullptr || dlpack::size_of(*out) == 0;
  }

  // Is it a view whose elements PyTorch negates as it reads them? Memory does not show that.
  bool is_lazily_negated(PyObject* tensor) const {
    PyObject* const answer = PyObject_CallOneArg(is_neg_.ptr(), tensor);
    if (answer == nullptr) throw py::error_already_set();
    Py_DECREF(answer);
    return answer != Py_False;
  }

  const TensorPrefetcher prefetcher;

 private:
  const dlpack::ExchangeApi* api_;
  py::tuple types_;
  py::object is_neg_;
};

// Grows a table parameter by parameter.
class TableBuilder {
 public:
  TableBuilder(const TensorReader& reader, size_t columns, size_t rows,
               std::optional<DType> state_dtype, bool is_for_gpu)
      : table(std::make_shared<TensorTable>()),
        reader_(reader),
        state_dtype_(state_dtype),
        is_for_gpu_(is_for_gpu) {
    table->columns.resize(columns);
    for (auto& column : table->columns) column.reserve(rows);
    table->sizes.reserve(rows);
    table->steps.reserve(rows);
    table->ordinals.reserve(rows);
  }

  // `row` is parameter, gradient and state entries. False, and the table is of no more use, unless
  // they lie on one device that the kernels take, with storage, parameter and gradient of the dtype
  // of the first row, the state of its own, all laid out as the parameter, which is dense.
  bool add(PyObject* const* row, uint32_t ordinal) {
    dlpack::Tensor lead, other;
    if (!reader_.read(row[0], &lead) || !dlpack::is_dense(lead)) return false;
    const bool is_first = table->sizes.empty();
    if (is_first) {
      device_type_ = lead.device.type;
      device_id_ = lead.device.id;
    }
    const std::optional<DType> dtype = dlpack::dtype_of(lead);
    if (!is_there(lead) || !takes(dtype) || (!is_first && *dtype != table->dtype)) return false;
    table->dtype = *dtype;
    table->state_dtype = state_dtype_.value_or(*dtype);
    table->columns[0].push_back(lead.data);
    for (size_t c = 1; c < table->columns.size(); ++c) {
      const DType expected = c == 1 ? *dtype : table->state_dtype;
      if (!reader_.read(row[c], &other) || !is_there(other) ||
          dlpack::dtype_of(other) != expected || !dlpack::has_same_layout(lead, other)) {
        return false;
      }
      table->columns[c].push_back(other.data);
    }
    if (reader_.is_lazily_negated(row[0]) || reader_.is_lazily_negated(row[1])) return false;
    table->sizes.push_back(dlpack::size_of(lead));
    table->ordinals.push_back(ordinal);
    return true;
  }

  bool add_step(PyObject* step) {
    dlpack::Tensor count;
    if (!reader_.read(step, &count) || dlpack::dtype_of(count) != DType::kFloat32 ||
        dlpack::size_of(count) != 1) {
      return false;
    }
    const bool is_on_cpu = count.device.type == dlpack::kCpu;
    if (!is_on_cpu && !is_there(count)) return false;
    if (!table->steps.empty() && is_on_cpu != table->are_steps_on_cpu) return false;
    table->are_steps_on_cpu = is_on_cpu;
    table->steps.push_back(static_cast<float*>(count.data));
    return true;
  }

  std::shared_ptr<TensorTable> table;

 private:
  // On the first parameter's device, and that is one for these kernels: a GPU, or the CPU that
  // emulates it.
  bool is_there(const dlpack::Tensor& tensor) const {
    return tensor.device.type == device_type_ && tensor.device.id == device_id_ &&
           (device_type_ == dlpack::kCpu || (is_for_gpu_ && device_type_ == dlpack::kCuda));
  }

  // The CPU's kernels know no float16.
  bool takes(std::optional<DType> dtype) const {
    return dtype && (is_for_gpu_ || *dtype != DType::kFloat16);
  }

  const TensorReader& reader_;
  const std::optional<DType> state_dtype_;
  const bool is_for_gpu_;
  int32_t device_type_ = 0, device_id_ = 0;
};

std::optional<DType> dtype_of_code(std::optional<int> code) {
  return code ? std::optional<DType>(static_cast<DType>(*code)) : std::nullopt;
}

// None unless the builder takes every row.
std::shared_ptr<TensorTable> read_columns(const TensorReader& reader,
                                          const std::vector<py::list>& columns,
                                          const py::list& steps,
                                          const std::vector<uint32_t>& ordinals,
                                          std::optional<int> state_dtype, bool is_for_gpu) {
  const size_t rows = ordinals.size();
  for (const py::list& column : columns) {
    if (column.size() != rows) throw std::invalid_argument("tensor table: ragged columns");
  }
  TableBuilder builder(reader, columns.size(), rows, dtype_of_code(state_dtype), is_for_gpu);
  std::vector<PyObject*> row(columns.size());
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns.size(); ++c) row[c] = PyList_GET_ITEM(columns[c].ptr(), r);
    if (!builder.add(row.data(), ordinals[r])) return nullptr;
  }
  for (const py::handle step : steps) {
    if (!builder.add_step(step.ptr())) return nullptr;
  }
  return builder.table;
}

// The dict's value; null without an error if there is none.
PyObject* item_of(PyObject* dict, PyObject* key) {
  PyObject* const value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

// The states of parameters, in their order. A dict holds them in the order they were made in,
// nearly always the parameters' own: then its next entry is the one wanted, and no hash (which
// PyTorch computes in Python) is.
class StateWalk {
 public:
  explicit StateWalk(PyObject* states) : states_(states) { advance(); }

  PyObject* of(PyObject* param) {
    if (key_ != param) return item_of(states_, param);
    PyObject* const found = value_;
    advance();
    return found;
  }

 private:
  void advance() {
    if (!PyDict_Next(states_, &position_, &key_, &value_)) key_ = nullptr;
  }

  PyObject* const states_;
  PyObject* key_ = nullptr;
  PyObject* value_ = nullptr;
  Py_ssize_t position_ = 0;
};

// The parameters of a group, some at a time, each with its gradient and the entries of its state.
class GroupReader {
 public:
  // The entries wanted are those of `keys`, and "step" if `has_steps`; without keys, none.
  GroupReader(const TensorPrefetcher& prefetcher, const py::list& params, const py::dict& states,
              const py::tuple& keys, bool has_steps)
      : prefetcher_(prefetcher), params_(params), walk_(states.ptr()) {
    static PyObject* const kStep = PyUnicode_InternFromString("step");
    for (const py::handle key : keys) keys_.push_back(key.ptr());
    if (has_steps) keys_.push_back(kStep);
  }

  struct Row {
    PyObject* param;
    py::object grad;
    PyObject* state;                 // null if there is none that is a dict
    std::vector<PyObject*> entries;  // null where there is none
  };

  static constexpr size_t kRows = 16;

  // Rows [begin, end), at most kRows. Every loop but the last asks for what the next one reads.
  const Row* read(size_t begin, size_t end) {
    static PyObject* const kGrad = PyUnicode_InternFromString("grad");
    const size_t count = end - begin;
    for (size_t r = 0; r < count; ++r) {
      Row& row = rows_[r];
      row.param = PyList_GET_ITEM(params_.ptr(), begin + r);
      row.state = keys_.empty() ? nullptr : walk_.of(row.param);
      prefetcher_.object(row.param);
      if (row.state != nullptr) prefetcher_.object(row.state);
    }
    for (size_t r = 0; r < count; ++r) {
      Row& row = rows_[r];
      prefetcher_.impl(row.param);
      if (row.state != nullptr && !PyDict_Check(row.state)) row.state = nullptr;
      if (row.state != nullptr) prefetch_keys(row.state);
    }
    for (size_t r = 0; r < count; ++r) {
      Row& row = rows_[r];
      prefetcher_.neighbours(row.param);
      row.entries.assign(keys_.size(), nullptr);
      for (size_t k = 0; row.state != nullptr && k < keys_.size(); ++k) {
        row.entries[k] = item_of(row.state, keys_[k]);
        if (row.entries[k] != nullptr) prefetcher_.object(row.entries[k]);
      }
    }
    for (size_t r = 0; r < count; ++r) {
      Row& row = rows_[r];
      row.grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(row.param, kGrad));
      if (!row.grad) throw py::error_already_set();
      prefetcher_.impl(row.grad.ptr());
      for (PyObject* const entry : row.entries) prefetcher_.impl(entry);
    }
    for (size_t r = 0; r < count; ++r) {
      const Row& row = rows_[r];
      prefetcher_.storage(row.grad.ptr());
      for (PyObject* const entry : row.entries) prefetcher_.storage(entry);
    }
    return rows_;
  }

 private:
  const TensorPrefetcher& prefetcher_;
  const py::list& params_;
  std::vector<PyObject*> keys_;
  StateWalk walk_;
  Row rows_[kRows];
};

// The parameters of a group that have a gradient: (table, params, grads, states, ordinals). None if
// a state is missing, or unless the builder takes every row. `keys` name the state entries that are
// shaped like the parameter; without any, states are left alone.
py::object read_group(const TensorReader& reader, const py::list& params, const py::dict& states,
                      const py::tuple& keys, bool has_steps, uint32_t first_ordinal,
                      std::optional<int> state_dtype, bool is_for_gpu) {
  TableBuilder builder(reader, 2 + keys.size(), params.size(), dtype_of_code(state_dtype),
                       is_for_gpu);
  GroupReader group(reader.prefetcher, params, states, keys, has_steps);
  py::list stepped, grads, own_states;
  std::vector<PyObject*> tensors(2);
  for (size_t begin = 0; begin < params.size(); begin += GroupReader::kRows) {
    const size_t end = std::min(begin + GroupReader::kRows, params.size());
    const GroupReader::Row* const rows = group.read(begin, end);
    for (size_t i = begin; i < end; ++i) {
      const GroupReader::Row& row = rows[i - begin];
      if (row.grad.is_none()) continue;
      for (PyObject* const entry : row.entries) {
        if (entry == nullptr) return py::none();
      }
      tensors.assign({row.param, row.grad.ptr()});
      tensors.insert(tensors.end(), row.entries.begin(), row.entries.begin() + keys.size());
      if (!builder.add(tensors.data(), first_ordinal + static_cast<uint32_t>(i))) return py::none();
      if (has_steps && !builder.add_step(row.entries.back())) return py::none();
      if (row.state != nullptr) own_states.append(py::handle(row.state));
      stepped.append(py::handle(row.param));
      grads.append(row.grad);
    }
  }
  const std::vector<uint32_t> ordinals = builder.table->ordinals;
  return py::make_tuple(builder.table, stepped, grads, own_states, ordinals);
}

std::shared_ptr<TensorTable> table_of_addresses(const std::vector<std::vector<uintptr_t>>& columns,
                                                const std::vector<uintptr_t>& steps,
                                                std::vector<int64_t> sizes,
                                                std::vector<uint32_t> ordinals, int dtype,
                                                std::optional<int> state_dtype,
                                                bool are_steps_on_cpu) {
  auto table = std::make_shared<TensorTable>();
  for (const auto& addresses : columns) {
    if (addresses.size() != sizes.size() || ordinals.size() != sizes.size()) {
      throw std::invalid_argument("tensor table: ragged columns");
    }
    auto& column = table->columns.emplace_back();
    for (const uintptr_t address : addresses) column.push_back(pointer<void>(address));
  }
  for (const uintptr_t address : steps) table->steps.push_back(pointer<float>(address));
  table->sizes = std::move(sizes);
  table->ordinals = std::move(ordinals);
  table->dtype = static_cast<DType>(dtype);
  table->state_dtype = dtype_of_code(state_dtype).value_or(table->dtype);
  table->are_steps_on_cpu = are_steps_on_cpu;
  return table;
}

}  // namespace

void bind_tensor_table(py::module_& module) {
  py::class_<TensorTable, std::shared_ptr<TensorTable>>(module, "TensorTable")
      .def_readonly("are_steps_on_cpu", &TensorTable::are_steps_on_cpu);
  py::class_<TensorReader>(module, "TensorReader")
      .def(py::init([](const py::object& exchange_api, py::tuple types, py::object is_neg,
                       const py::handle sample, uintptr_t impl, uintptr_t storage) {
        return TensorReader(exchange_api, std::move(types), std::move(is_neg),
                            TensorPrefetcher(sample.ptr(), impl, storage));
      }))
      .def("read_columns", &read_columns)
      .def("read_group", &read_group);
  module.def("tensor_table_of_addresses", &table_of_addresses);
}

}  // namespace fastmodel
