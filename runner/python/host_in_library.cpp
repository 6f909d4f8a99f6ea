// The host as a Python module: a library among others, whose names the loader may find elsewhere.

#include "backends/aoti_host/bind.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string_view>

namespace runner::aoti_host {
namespace {

constexpr std::string_view kInterface = "aoti_torch_";

// The library that this code is in.
void* this_library() {
  static void* const handle = []() -> void* {
    Dl_info info{};
    link_map* map = nullptr;
    const void* here = reinterpret_cast<const void*>(&host_function);
    const bool found =
        dladdr1(here, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0;
    if (!found || map == nullptr) return nullptr;
    return dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD);
  }();
  return handle;
}

// Part of `code` as `count` objects of type T.
template <class T>
std::span<T> part(std::span<std::byte> code, uint64_t offset, uint64_t count) {
  if (offset > code.size() || count > (code.size() - offset) / sizeof(T) ||
      reinterpret_cast<uintptr_t>(code.data() + offset) % alignof(T) != 0) {
    throw std::invalid_argument("its tables lie beyond its end");
  }
  return {reinterpret_cast<T*>(code.data() + offset), static_cast<size_t>(count)};
}

std::string_view text_at(std::span<const char> texts, size_t at) {
  if (at >= texts.size()) return {};
  const auto* end = static_cast<const char*>(std::memchr(&texts[at], 0, texts.size() - at));
  return end == nullptr ? std::string_view() : std::string_view(&texts[at], end);
}

}  // namespace

bool host_is_the_program() { return false; }
const LinkedModel* linked_model() { return nullptr; }

void* host_function(const char* name) {
  void* library = this_library();
  return library == nullptr ? nullptr : dlsym(library, name);
}

void bind_to_host(std::span<std::byte> code) {
  const auto& header = part<Elf64_Ehdr>(code, 0, 1)[0];
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr)) {
    throw std::invalid_argument("it is no 64-bit ELF library");
  }
  const auto sections = part<Elf64_Shdr>(code, header.e_shoff, header.e_shnum);
  for (const Elf64_Shdr& section : sections) {
    if (section.sh_type != SHT_DYNSYM || section.sh_link >= sections.size()) continue;
    const Elf64_Shdr& names = sections[section.sh_link];
    const auto texts = part<char>(code, names.sh_offset, names.sh_size);
    const auto symbols =
        part<Elf64_Sym>(code, section.sh_offset, section.sh_size / sizeof(Elf64_Sym));
    for (Elf64_Sym& symbol : symbols) {
      const std::string_view name = text_at(texts, symbol.st_name);
      if (symbol.st_shndx != SHN_UNDEF || !name.starts_with(kInterface)) continue;
      void* function = host_function(name.data());
      if (function == nullptr) continue;  // the loader will say so
      symbol.st_shndx = SHN_ABS;
      symbol.st_value = reinterpret_cast<uintptr_t>(function);
      symbol.st_other = STV_HIDDEN;
    }
    return;
  }
  throw std::invalid_argument("it has no table of symbols");
}

}  // namespace runner::aoti_host
