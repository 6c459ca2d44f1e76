// Asks early for the memory that a walk over many tensors is going to look at.
//
// A tensor seen from Python is a chain of three objects on the heap, each found through the one
// before: its PyObject, its TensorImpl, its storage. Between two steps of an optimizer forward and
// backward run, and the chains of thousands of tensors have left the caches: a walk that looks at
// them one after the other waits for memory all the time (some 350 ns a tensor where 45 would do,
// two cores of an AMD EPYC). Asked for in rounds, a link of many chains at a time, they come
// together.
//
// Where in an object the pointer to the next one lies is found by looking at a sample whose
// addresses are known, so this knows no version of PyTorch. A wrong guess would cost time, never an
// answer: what is read are words of live objects, and they are only asked for.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>

namespace fastmodel {

class TensorPrefetcher {
 public:
  // `sample` is a tensor, the addresses those of its TensorImpl and of its storage.
  TensorPrefetcher(PyObject* sample, uintptr_t impl, uintptr_t storage)
      : type_(Py_TYPE(sample)),
        impl_word_(find(sample, type_->tp_basicsize / kWord, impl)),
        storage_word_(find(reinterpret_cast<void*>(impl), kWords, storage)) {}

  static void object(const PyObject* tensor) { ask(tensor, 2); }

  // Of a tensor whose object has been asked for; other objects and null are passed over.
  void impl(const PyObject* tensor) const { ask(impl_of(tensor), 4); }

  // Of a tensor whose TensorImpl has been asked for.
  void storage(const PyObject* tensor) const {
    const void* const impl = impl_of(tensor);
    if (impl != nullptr) ask(word(impl, storage_word_), 2);
  }

  // All that a TensorImpl points to: the storage, and what autograd knows, the gradient among it.
  void neighbours(const PyObject* tensor) const {
    const void* const impl = impl_of(tensor);
    for (size_t w = 1; impl != nullptr && w < kWords; ++w) ask(word(impl, w), 2);
  }

 private:
  static constexpr size_t kWord = sizeof(void*), kWords = 8, kLine = 64;

  static const void* word(const void* object, size_t index) {
    return static_cast<const void* const*>(object)[index];
  }

  static void ask(const void* object, int lines) {
    for (int l = 0; l < lines; ++l) {
      __builtin_prefetch(static_cast<const char*>(object) + l * kLine);
    }
  }

  // Null if it is none, or nothing is known of where a tensor keeps it.
  const void* impl_of(const PyObject* tensor) const {
    if (impl_word_ == 0 || storage_word_ == 0 || tensor == nullptr) return nullptr;
    PyTypeObject* const type = Py_TYPE(tensor);
    if (type != type_ && !PyType_IsSubtype(type, type_)) return nullptr;
    return word(tensor, impl_word_);
  }

  // The word, after the first, that holds the value; 0 if none does.
  static size_t find(const void* object, size_t words, uintptr_t value) {
    for (size_t w = 1; w < words; ++w) {
      if (reinterpret_cast<uintptr_t>(word(object, w)) == value) return w;
    }
    return 0;
  }

  PyTypeObject* type_;
  size_t impl_word_, storage_word_;  // 0 if not found
};

// A dict's table of keys, once the dict itself has been asked for.
inline void prefetch_keys(const PyObject* dict) {
  const void* const keys = reinterpret_cast<const PyDictObject*>(dict)->ma_keys;
  for (int l = 0; l < 4; ++l) __builtin_prefetch(static_cast<const char*>(keys) + l * 64);
}

}  // namespace fastmodel
