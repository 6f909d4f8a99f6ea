#pragma once

#include <cstdint>
#include <string>

namespace runner {

enum class FileKind { executorch, zip, elf, other };

struct FileInfo {
  FileKind kind = FileKind::other;
  uint64_t size = 0;
};

// What the first bytes of an artifact say. Throws Error when the file is missing, empty or
// unreadable.
FileInfo inspect_artifact(const std::string& path);

// Throws Error when a .pte's own header says that it is longer than the file.
// Source of the format: ExecuTorch's schema/extended_header.h.
void check_executorch_header(const std::string& path, const FileInfo& info);

// Throws Error when a shared library's header says that it is longer than the file: the loader
// would map what is not there. Source of the format: elf(5), ELFCLASS64.
void check_elf_header(const std::string& path, const FileInfo& info);

// `text` as one short line, for an Error: the first line, without control characters.
std::string first_line(const std::string& text);

}  // namespace runner
