// The host as a program of one file: a model's code is linked into it, and its artifact is a segment of it,
// both by `exporter/pack/single_file.py`.

#include <torch/csrc/inductor/aoti_runtime/interface.h>

#include <cstdint>
#include <cstring>

#include "backends/aoti_host/bind.h"

// Where the artifact lies in memory, which is written into the file when it is packed: the segment that the
// linker makes of this note becomes the artifact's. `volatile`, since the compiler knows other values.
struct ArtifactNote {
  uint32_t name_bytes = 12, data_bytes = 16, type = 1;
  char name[12] = "native-llm";
  uint64_t address = 0, size = 0;
};
__attribute__((section(".note.native-llm"), used)) const volatile ArtifactNote native_llm_artifact;

namespace runner::aoti_host {
namespace {

// What container.cpp calls of a model.
#define ENTRY(name) {#name, reinterpret_cast<void*>(&name)}
const struct {
  const char* name;
  void* address;
} kEntryPoints[] = {
    ENTRY(AOTInductorModelContainerCreateWithDevice),
    ENTRY(AOTInductorModelContainerDelete),
    ENTRY(AOTInductorModelContainerRunSingleThreaded),
    ENTRY(AOTInductorModelContainerGetNumInputs),
    ENTRY(AOTInductorModelContainerGetNumOutputs),
    ENTRY(AOTInductorModelContainerGetNumConstants),
    ENTRY(AOTInductorModelContainerGetConstantName),
    ENTRY(AOTInductorModelContainerGetConstantOriginalFQN),
    ENTRY(AOTInductorModelContainerGetConstantDtype),
    ENTRY(AOTInductorModelContainerGetConstantDataSize),
    ENTRY(AOTInductorModelContainerUpdateUserManagedConstantBufferPairs),
    ENTRY(AOTInductorGetLastError),
};

void* entry_point(const char* name) {
  for (const auto& entry : kEntryPoints) {
    if (std::strcmp(entry.name, name) == 0) return entry.address;
  }
  return nullptr;
}

}  // namespace

const LinkedModel* linked_model() {
  static const LinkedModel model = {{reinterpret_cast<const std::byte*>(native_llm_artifact.address),
                                     static_cast<size_t>(native_llm_artifact.size)},
                                    entry_point};
  return &model;
}

bool host_is_the_program() { return true; }

// The linker found them all.
void* host_function(const char*) { return reinterpret_cast<void*>(&entry_point); }

void bind_to_host(std::span<std::byte>) {}

}  // namespace runner::aoti_host

// The C++ library's demangler, of which no message of ours is made, would be 90 KB: this one knows no name, and
// std::terminate says the mangled one.
extern "C" char* __cxa_demangle(const char*, char*, size_t*, int* status) {
  constexpr int kNoValidName = -2;
  if (status != nullptr) *status = kNoValidName;
  return nullptr;
}
