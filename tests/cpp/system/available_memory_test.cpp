#include "system/available_memory.h"

#include <fstream>

#include "tests/cpp/check.h"
#include "tests/cpp/folder.h"

using namespace runner;

namespace {

namespace fs = std::filesystem;

const char* const kMeminfo = "MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:    4000 kB\n";

void put(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  write(path.string(), text);
}

}  // namespace

TEST(what_the_system_has) {
  const Folder folder;
  CHECK_EQ(*available_memory(kMeminfo, "", folder.path), 4000 * 1024);
  CHECK(!available_memory("", "", folder.path));
  CHECK(!available_memory("MemAvailable: many kB\n", "", folder.path));
}

TEST(what_the_control_groups_leave) {
  const Folder folder;
  const fs::path root = folder.path / "fs/cgroup";
  put(root / "a/memory.max", "3000000\n");
  put(root / "a/memory.current", "1000000\n");
  put(root / "a/b/memory.max", "max\n");
  put(root / "a/b/memory.current", "900000\n");
  CHECK_EQ(*available_memory(kMeminfo, "0::/a/b\n", folder.path), 2000000);
  put(root / "a/memory.stat", "anon 5\ninactive_file 500000\n");
  CHECK_EQ(*available_memory(kMeminfo, "0::/a/b\n", folder.path), 2500000);
  CHECK_EQ(*available_memory("", "0::/a/b\n", folder.path), 2500000);
  put(root / "a/memory.current", "9000000\n");
  CHECK_EQ(*available_memory(kMeminfo, "0::/a\n", folder.path), 0);
}

TEST(groups_of_version_1) {
  const Folder folder;
  const fs::path root = folder.path / "fs/cgroup";
  put(root / "memory/x/memory.limit_in_bytes", "1000000\n");
  put(root / "memory/x/memory.usage_in_bytes", "400000\n");
  const std::string groups = "5:memory:/x\n1:cpu:/y\n";
  CHECK_EQ(*available_memory(kMeminfo, groups, folder.path), 600000);
  put(root / "memory/x/memory.stat", "inactive_file 1\ntotal_inactive_file 200000\n");
  CHECK_EQ(*available_memory(kMeminfo, groups, folder.path), 800000);
}

CHECK_MAIN()
