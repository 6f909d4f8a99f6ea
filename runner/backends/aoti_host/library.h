#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace runner::aoti_host {

// A model's code: a shared library, loaded. What it calls and does not bring is looked up in this
// program, or bound to this host (bind.h) where that is a library.
class Library {
 public:
  // A library that is mapped as it lies on the disk, or copied where it is to be bound. Throws Error when it cannot be loaded.
  static Library open(const std::string& file);

  // A library in memory. It is copied to a file without a name: in memory where the system has that
  // (memfd_create), else in the folder for temporary files. `path` is for messages.
  static Library from_bytes(const std::string& path, std::span<const std::byte> code);

  // The code of the model that is linked into this program (bind.h).
  static Library linked(const std::string& path) { return {path, nullptr}; }

  ~Library();
  Library(Library&& other) noexcept;
  Library& operator=(Library&&) = delete;

  // Throws Error when the library has no such symbol.
  template <class T>
  T* symbol(const char* name) const {
    return reinterpret_cast<T*>(address(name));
  }

 private:
  Library(std::string path, void* handle) : path_(std::move(path)), handle_(handle) {}
  void* address(const char* name) const;

  std::string path_;
  void* handle_;  // null of linked code
};

// Those of `functions` that neither this host nor its program has.
std::vector<std::string> missing_functions(const std::vector<std::string>& functions);

}  // namespace runner::aoti_host
