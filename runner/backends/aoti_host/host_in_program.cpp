// The host as a program: a model's code finds its functions by name.

#include <dlfcn.h>

#include "backends/aoti_host/bind.h"

namespace runner::aoti_host {

bool host_is_the_program() { return true; }
const LinkedModel* linked_model() { return nullptr; }
void* host_function(const char* name) { return dlsym(RTLD_DEFAULT, name); }
void bind_to_host(std::span<std::byte>) {}

}  // namespace runner::aoti_host
