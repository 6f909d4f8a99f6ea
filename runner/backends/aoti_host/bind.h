#pragma once

#include <cstddef>
#include <span>

namespace runner::aoti_host {

// Whether this host is the program, whose functions a model's code finds by name. Else it is a
// library in a program (Python), where PyTorch's functions of the same names may be found instead.
bool host_is_the_program();

// A model whose code is linked into this program, and whose artifact, a .pt2, lies in it.
struct LinkedModel {
  std::span<const std::byte> artifact;
  void* (*entry_point)(const char* name);  // null for a name that there is not
};

// Null in a program that opens files.
const LinkedModel* linked_model();

// The address of a function that a model's code finds; null where there is none.
void* host_function(const char* name);

// Binds what `code`, an ELF library that is not loaded yet, calls of PyTorch's C interface to the
// functions of this host: their symbols become absolute addresses of the library's own, which the
// loader looks for nowhere else (glibc 2.28 or later). Throws std::invalid_argument when the bytes
// are no such library.
void bind_to_host(std::span<std::byte> code);

}  // namespace runner::aoti_host
