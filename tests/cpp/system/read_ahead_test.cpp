// A file that is not in memory is read in order, and is there afterwards.

#include "system/read_ahead.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "tests/cpp/check.h"
#include "tests/cpp/folder.h"

using namespace runner;

namespace {

// A file of random bytes' size that the system is asked to forget; false where it keeps it (in memory alone).
bool make_cold(const std::string& path, size_t bytes) {
  std::ofstream(path, std::ios::binary) << std::string(bytes, 'x');
  const int file = open(path.c_str(), O_RDONLY);
  fsync(file);
  posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  close(file);
  return part_in_memory(path) < 0.5;
}

}  // namespace

TEST(a_cold_file_is_read_in_order) {
  const Folder folder;
  const std::string path = folder.file("cold");
  if (!make_cold(path, 40 << 20)) return;  // this file system is memory
  std::vector<double> parts;
  read_ahead(path, [&](double part) {
    parts.push_back(part);
    return true;
  });
  CHECK(parts.size() == 5);
  CHECK(std::is_sorted(parts.begin(), parts.end()) && parts.back() == 1);
  CHECK(part_in_memory(path) == 1);
  read_ahead(path, [&](double) {
    CHECK(false);  // it is there
    return true;
  });
}

TEST(reading_ends_where_it_is_told_to) {
  const Folder folder;
  const std::string path = folder.file("cold");
  if (!make_cold(path, 40 << 20)) return;
  int calls = 0;
  read_ahead(path, [&](double) { return ++calls < 2; });
  CHECK(calls == 2);
}

TEST(what_cannot_be_read_is_left_to_others) {
  read_ahead("/none/at/all", [](double) { return true; });
  const Folder folder;
  read_ahead(folder.path.string(), [](double) { return true; });
}

CHECK_MAIN()
