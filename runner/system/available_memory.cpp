#include "system/available_memory.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

#include "system/control_groups.h"

namespace runner {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A file's number; none where it is not there or says "max".
std::optional<int64_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  int64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

// Bytes that the group's files can give back, which its use counts.
int64_t inactive_files(const fs::path& folder, GroupVersion version) {
  const std::string wanted = version == GroupVersion::v2 ? "inactive_file" : "total_inactive_file";
  std::istringstream lines(text_of(folder / "memory.stat"));
  std::string key;
  for (int64_t bytes = 0; lines >> key >> bytes;) {
    if (key == wanted) return bytes;
  }
  return 0;
}

std::optional<int64_t> left_in(const fs::path& folder, GroupVersion version) {
  const bool v2 = version == GroupVersion::v2;
  const auto limit = number_in(folder / (v2 ? "memory.max" : "memory.limit_in_bytes"));
  const auto used = number_in(folder / (v2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!limit || !used) return std::nullopt;
  return std::max<int64_t>(0, *limit - *used + inactive_files(folder, version));
}

}  // namespace

std::optional<int64_t> available_memory(const std::string& meminfo, const std::string& cgroups,
                                        const fs::path& sys) {
  std::optional<int64_t> left;
  std::istringstream lines(meminfo);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string key;
    int64_t kib = 0;
    if (words >> key >> kib && key == "MemAvailable:") left = kib * 1024;
  }
  each_control_group(cgroups, sys, "memory", [&](const fs::path& folder, GroupVersion version) {
    const auto of_group = left_in(folder, version);
    if (of_group) left = std::min(left.value_or(*of_group), *of_group);
  });
  return left;
}

std::optional<int64_t> available_memory() {
  return available_memory(text_of("/proc/meminfo"), own_control_groups(), "/sys");
}

}  // namespace runner
