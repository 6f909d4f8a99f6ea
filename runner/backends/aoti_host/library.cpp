#include "backends/aoti_host/library.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/memfd.h>
#include <sys/syscall.h>
#endif

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <list>
#include <stdexcept>
#include <utility>

#include "backends/aoti_host/bind.h"
#include "model/artifact_file.h"
#include "system/error.h"
#include "system/mapped_file.h"

namespace runner::aoti_host {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int number) : number_(number) {}
  ~FileDescriptor() {
    if (number_ >= 0) close(number_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  int number() const { return number_; }

  // Writes the code of the library `path`; where this host is not the program, bound to this host.
  bool write_code(const std::string& path, std::span<const std::byte> code) const {
    if (!write_all(code)) return false;
    if (host_is_the_program()) return true;
    void* memory = mmap(nullptr, code.size(), PROT_READ | PROT_WRITE, MAP_SHARED, number_, 0);
    if (memory == MAP_FAILED) return false;
    try {
      bind_to_host({static_cast<std::byte*>(memory), code.size()});
    } catch (const std::invalid_argument& error) {
      munmap(memory, code.size());
      throw Error(path + " cannot be loaded: " + error.what() + "; copy or export it again");
    }
    munmap(memory, code.size());
    return true;
  }

 private:
  bool write_all(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = write(number_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
    return true;
  }

  int number_;
};

#ifdef __linux__
// memfd_create, which glibc has from 2.27 on.
int make_memory_file() { return static_cast<int>(syscall(SYS_memfd_create, "model.so", MFD_CLOEXEC)); }

std::string name_of(int file) { return "/proc/self/fd/" + std::to_string(file); }
#endif

// Now, so that what is missing is found here; local, so that two models do not meet.
void* load(const std::string& file) { return dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL); }

[[noreturn]] void fail(const std::string& path, const char* remedy) {
  const char* reason = dlerror();
  throw Error(path + " cannot be loaded: " + first_line(reason ? reason : "no reason given") + "; " +
              remedy);
}

// The bytes in a file that only this program can open, and that is gone when it is closed.
void* load_temporary_file(const std::string& path, std::span<const std::byte> code) {
  std::error_code error;
  std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  if (error) folder = "/tmp";
  std::string name = (folder / "aoti_run-XXXXXX").string();
  const FileDescriptor file(mkostemp(name.data(), O_CLOEXEC));
  if (file.number() < 0) {
    throw Error("cannot make a file in " + folder.string() + ": " + std::strerror(errno) +
                "; set TMPDIR to a folder that can be written");
  }
  try {
    const bool written = file.write_code(path, code);
    if (!written) {
      throw Error("no room for the code of " + path + " in " + folder.string() +
                  "; set TMPDIR to a folder with room");
    }
    void* handle = load(name);
    if (handle == nullptr) {
      fail(path, "copy or export it again, or set TMPDIR to a folder that programs may be run from");
    }
    unlink(name.c_str());  // what is mapped stays
    return handle;
  } catch (...) {
    unlink(name.c_str());
    throw;
  }
}

}  // namespace

Library Library::open(const std::string& file) {
  if (!host_is_the_program()) {
    const MappedFile mapped(file);
    return from_bytes(file, mapped.bytes());
  }
  void* handle = load(file);
  if (handle == nullptr) fail(file, "copy or export it again");
  return {file, handle};
}

Library Library::from_bytes(const std::string& path, std::span<const std::byte> code) {
#ifdef __linux__
  const FileDescriptor file(make_memory_file());
  if (file.number() >= 0 && file.write_code(path, code)) {
    // The loader tells libraries apart by name: one that is still there must not be taken for this.
    std::list<FileDescriptor> others;
    std::string name = name_of(file.number());
    while (void* other = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD)) {
      dlclose(other);
      others.emplace_back(dup(file.number()));
      name = name_of(others.back().number());
    }
    // Some systems do not let such a file be run.
    if (void* handle = load(name)) return {path, handle};
  }
#endif
  return {path, load_temporary_file(path, code)};
}

Library::~Library() {
  if (handle_ != nullptr) dlclose(handle_);
}

Library::Library(Library&& other) noexcept
    : path_(std::move(other.path_)), handle_(std::exchange(other.handle_, nullptr)) {}

void* Library::address(const char* name) const {
  void* found = handle_ ? dlsym(handle_, name) : linked_model()->entry_point(name);
  if (found != nullptr) return found;
  throw Error(path_ + " is not a compiled model of this project: it has no " + name +
              "; export the model again");
}

std::vector<std::string> missing_functions(const std::vector<std::string>& functions) {
  std::vector<std::string> missing;
  for (const std::string& name : functions) {
    if (host_function(name.c_str()) == nullptr) missing.push_back(name);
  }
  return missing;
}

}  // namespace runner::aoti_host
