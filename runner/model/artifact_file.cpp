#include "model/artifact_file.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "system/error.h"
#include "text/printable.h"

namespace runner {
namespace {

constexpr size_t kHeadBytes = 64;
using Head = std::array<char, kHeadBytes>;  // zeros beyond a shorter file's end

Head read_head(const std::string& path) {
  Head head{};
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error("cannot read " + path + ": " + std::strerror(errno ? errno : EIO) +
                "; give the path of an exported model");
  }
  file.read(head.data(), head.size());
  return head;
}

uint64_t little_endian(const Head& head, size_t offset, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = bytes; i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(head[offset + i]);
  return value;
}

[[noreturn]] void fail_cut_off(const std::string& path, const FileInfo& info) {
  throw Error(path + " is cut off: it holds " + std::to_string(info.size) +
              " bytes, its header promises more; copy or export it again");
}

}  // namespace

FileInfo inspect_artifact(const std::string& path) {
  const Head head = read_head(path);
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    throw Error(path + " is a folder; give the exported file itself");
  }
  FileInfo info;
  info.size = std::filesystem::file_size(path, error);
  if (error) throw Error("cannot read " + path + ": " + error.message());
  if (info.size == 0) throw Error(path + " is empty; export the model again");

  const std::string_view bytes(head.data(), head.size());
  if (bytes.substr(4, 2) == "ET") info.kind = FileKind::executorch;
  if (bytes.starts_with("PK\x03\x04")) info.kind = FileKind::zip;
  if (bytes.starts_with("\x7f"
                        "ELF"))
    info.kind = FileKind::elf;
  return info;
}

void check_executorch_header(const std::string& path, const FileInfo& info) {
  // Bytes 4-7: flatbuffer identifier; 8-11: magic of the extended header; 12-15: its length;
  // then 64-bit sizes of the program and of the segments that follow it.
  const Head head = read_head(path);
  const std::string_view bytes(head.data(), head.size());
  if (bytes.substr(8, 4) != "eh00") return;
  const uint64_t header_length = little_endian(head, 12, 4);
  const uint64_t program_size = little_endian(head, 16, 8);
  const uint64_t segments_start = little_endian(head, 24, 8);
  const uint64_t segments_size = header_length >= 32 ? little_endian(head, 32, 8) : 0;
  const bool fits = program_size <= info.size && segments_start <= info.size &&
                    segments_size <= info.size - segments_start;
  if (!fits) fail_cut_off(path, info);
}

void check_elf_header(const std::string& path, const FileInfo& info) {
  // The table of sections is the last thing that linkers write. Its offset is at byte 40, the
  // size of an entry at 58 and their number at 60.
  const Head head = read_head(path);
  const uint64_t table = little_endian(head, 40, 8);
  const uint64_t table_size = little_endian(head, 58, 2) * little_endian(head, 60, 2);
  if (info.size < kHeadBytes || table > info.size || table_size > info.size - table) {
    fail_cut_off(path, info);
  }
}

std::string first_line(const std::string& text) {
  return printable(text.substr(0, text.find('\n')));
}

}  // namespace runner
