// Reads an optimizer's tensors into a TensorTable. Addresses are read anew in every step: `.data`,
// `.grad` and the state may have been replaced since, and only a look tells. The look through
// DLPack (some 45 ns a tensor) is nearly all of the cost, so a table that was kept and compared
// would save nothing over one that is made again.
#include "common/tensor_table.h"

#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>

#include "common/bindings.h"
#include "common/tensor_layout.h"

namespace fastmodel {
namespace {

// Reads tensors that are exactly of one of the given types.
class TensorReader {
 public:
  TensorReader(const py::object& exchange_api, py::tuple types, py::object is_neg)
      : types_(std::move(types)), is_neg_(std::move(is_neg)) {
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
    return out->device.type == dlpack::kCpu && (out->data != nullptr || dlpack::size_of(*out) == 0);
  }

  // Is it a view whose elements PyTorch negates as it reads them? Memory does not show that.
  bool is_lazily_negated(PyObject* tensor) const {
    PyObject* const answer = PyObject_CallOneArg(is_neg_.ptr(), tensor);
    if (answer == nullptr) throw py::error_already_set();
    Py_DECREF(answer);
    return answer != Py_False;
  }

 private:
  const dlpack::ExchangeApi* api_;
  py::tuple types_;
  py::object is_neg_;
};

// Grows a table parameter by parameter.
class TableBuilder {
 public:
  TableBuilder(const TensorReader& reader, size_t columns, size_t rows,
               std::optional<DType> state_dtype)
      : table(std::make_shared<TensorTable>()), reader_(reader), state_dtype_(state_dtype) {
    table->columns.resize(columns);
    for (auto& column : table->columns) column.reserve(rows);
    table->sizes.reserve(rows);
    table->steps.reserve(rows);
    table->ordinals.reserve(rows);
  }

  // `row` is parameter, gradient and state entries. False, and the table is of no more use, unless
  // they lie on the CPU with storage, parameter and gradient of the dtype of the first row, the
  // state of its own, all laid out as the parameter, which is dense.
  bool add(PyObject* const* row, uint32_t ordinal) {
    dlpack::Tensor lead, other;
    if (!reader_.read(row[0], &lead) || !dlpack::is_dense(lead)) return false;
    const std::optional<DType> dtype = dlpack::dtype_of(lead);
    if (!dtype || (!table->sizes.empty() && *dtype != table->dtype)) return false;
    table->dtype = *dtype;
    table->state_dtype = state_dtype_.value_or(*dtype);
    table->columns[0].push_back(lead.data);
    for (size_t c = 1; c < table->columns.size(); ++c) {
      const DType expected = c == 1 ? *dtype : table->state_dtype;
      if (!reader_.read(row[c], &other) || dlpack::dtype_of(other) != expected ||
          !dlpack::has_same_layout(lead, other)) {
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
    table->steps.push_back(static_cast<float*>(count.data));
    return true;
  }

  std::shared_ptr<TensorTable> table;

 private:
  const TensorReader& reader_;
  const std::optional<DType> state_dtype_;
};

std::optional<DType> dtype_of_code(std::optional<int> code) {
  return code ? std::optional<DType>(static_cast<DType>(*code)) : std::nullopt;
}

// None unless the builder takes every row.
std::shared_ptr<TensorTable> read_columns(const TensorReader& reader,
                                          const std::vector<py::list>& columns,
                                          const py::list& steps,
                                          const std::vector<uint32_t>& ordinals,
                                          std::optional<int> state_dtype) {
  const size_t rows = ordinals.size();
  for (const py::list& column : columns) {
    if (column.size() != rows) throw std::invalid_argument("tensor table: ragged columns");
  }
  TableBuilder builder(reader, columns.size(), rows, dtype_of_code(state_dtype));
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

// The parameters of a group that have a gradient: (table, params, grads, states, ordinals). None if
// a state is missing, or unless the builder takes every row. `keys` name the state entries that are
// shaped like the parameter; without any, states are left alone.
py::object read_group(const TensorReader& reader, const py::list& params, const py::dict& states,
                      const py::tuple& keys, bool has_steps, uint32_t first_ordinal,
                      std::optional<int> state_dtype) {
  static PyObject* const kGrad = PyUnicode_InternFromString("grad");
  static PyObject* const kStep = PyUnicode_InternFromString("step");
  TableBuilder builder(reader, 2 + keys.size(), params.size(), dtype_of_code(state_dtype));
  StateWalk walk(states.ptr());
  py::list stepped, grads, own_states;
  std::vector<PyObject*> row(2 + keys.size());
  for (size_t i = 0; i < params.size(); ++i) {
    PyObject* const param = PyList_GET_ITEM(params.ptr(), i);
    const auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(param, kGrad));
    if (!grad) throw py::error_already_set();
    PyObject* const state = keys.empty() ? nullptr : walk.of(param);
    if (grad.is_none()) continue;
    row[0] = param;
    row[1] = grad.ptr();
    if (!keys.empty()) {
      if (state == nullptr || !PyDict_Check(state)) return py::none();
      for (size_t k = 0; k < keys.size(); ++k) {
        row[2 + k] = item_of(state, PyTuple_GET_ITEM(keys.ptr(), k));
        if (row[2 + k] == nullptr) return py::none();
      }
      own_states.append(py::handle(state));
    }
    if (!builder.add(row.data(), first_ordinal + static_cast<uint32_t>(i))) return py::none();
    if (has_steps) {
      PyObject* const step = item_of(state, kStep);
      if (step == nullptr || !builder.add_step(step)) return py::none();
    }
    stepped.append(py::handle(param));
    grads.append(grad);
  }
  const std::vector<uint32_t> ordinals = builder.table->ordinals;
  return py::make_tuple(builder.table, stepped, grads, own_states, ordinals);
}

std::shared_ptr<TensorTable> table_of_addresses(const std::vector<std::vector<uintptr_t>>& columns,
                                                const std::vector<uintptr_t>& steps,
                                                std::vector<int64_t> sizes,
                                                std::vector<uint32_t> ordinals, int dtype,
                                                std::optional<int> state_dtype) {
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
  return table;
}

}  // namespace

void bind_tensor_table(py::module_& module) {
  py::class_<TensorTable, std::shared_ptr<TensorTable>>(module, "TensorTable");
  py::class_<TensorReader>(module, "TensorReader")
      .def(py::init<const py::object&, py::tuple, py::object>())
      .def("read_columns", &read_columns)
      .def("read_group", &read_group);
  module.def("tensor_table_of_addresses", &table_of_addresses);
}

}  // namespace fastmodel
