#include "model/artifact_file.h"

#include <string>

#include "system/error.h"
#include "tests/cpp/check.h"
#include "tests/cpp/folder.h"

using namespace runner;

namespace {

// Header of a .pte of `size` bytes that promises a program and segments.
std::string pte(uint64_t program, uint64_t segments_start, uint64_t segments_size, size_t size) {
  std::string bytes("\x1c\0\0\0ET12eh00\x20\0\0\0", 16);
  for (uint64_t value : {program, segments_start, segments_size}) {
    bytes.append(reinterpret_cast<const char*>(&value), 8);
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace

TEST(artifacts_are_known_by_their_first_bytes) {
  const Folder folder;
  const auto kind = [&](const std::string& bytes) {
    return inspect_artifact(write(folder.file("f"), bytes)).kind;
  };
  CHECK(kind(pte(40, 0, 0, 40)) == FileKind::executorch);
  CHECK(kind("PK\x03\x04 and so on") == FileKind::zip);
  CHECK(kind("\x7f"
             "ELF") == FileKind::elf);
  CHECK(kind("random") == FileKind::other);
  CHECK(kind("x") == FileKind::other);
  CHECK_THROWS(Error, kind(""), "empty", "export");
  CHECK_THROWS(Error, inspect_artifact(folder.file("absent")), "absent", "No such file");
  CHECK_THROWS(Error, inspect_artifact(folder.path.string()), "folder");
}

TEST(cut_off_artifacts_are_known_by_their_headers) {
  const Folder folder;
  const auto check_pte = [&](const std::string& bytes) {
    const std::string path = write(folder.file("f"), bytes);
    check_executorch_header(path, inspect_artifact(path));
  };
  check_pte(pte(100, 128, 72, 200));
  check_pte(pte(200, 0, 0, 200));
  CHECK_THROWS(Error, check_pte(pte(100, 128, 73, 200)), "cut off", "200");
  CHECK_THROWS(Error, check_pte(pte(201, 0, 0, 200)), "cut off");
  CHECK_THROWS(Error, check_pte(pte(100, ~0ull, 5, 200)), "cut off");
  CHECK_THROWS(Error, check_pte(pte(100, 128, 72, 200).substr(0, 20)), "cut off");

  const std::string self = read("/proc/self/exe");
  if (self.empty()) return;
  const auto check_elf = [&](const std::string& bytes) {
    const std::string path = write(folder.file("f"), bytes);
    check_elf_header(path, inspect_artifact(path));
  };
  check_elf(self);
  CHECK_THROWS(Error, check_elf(self.substr(0, self.size() - 1)), "cut off");
  CHECK_THROWS(Error, check_elf(self.substr(0, 50)), "cut off");
}

CHECK_MAIN()
