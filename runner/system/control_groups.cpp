#include "system/control_groups.h"

#include <fstream>
#include <iterator>
#include <sstream>

namespace runner {
namespace {

namespace fs = std::filesystem;
using Visit = std::function<void(const fs::path&, GroupVersion)>;

// The folder `root` and those below it down to the group.
void each_level(fs::path folder, const std::string& group, GroupVersion version, const Visit& f) {
  f(folder, version);
  for (const fs::path& name : fs::path(group).relative_path()) {
    folder /= name;
    f(folder, version);
  }
}

bool names(const std::string& controllers, const std::string& wanted) {
  std::istringstream list(controllers);
  for (std::string one; std::getline(list, one, ',');) {
    if (one == wanted) return true;
  }
  return false;
}

}  // namespace

void each_control_group(const std::string& cgroups, const fs::path& sys,
                        const std::string& controller, const Visit& f) {
  const fs::path root = sys / "fs/cgroup";
  each_level(root, "", GroupVersion::v2, f);
  std::istringstream lines(cgroups);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    if (controllers.empty()) {
      each_level(root, group, GroupVersion::v2, f);
    } else if (names(controllers, controller)) {
      // The hierarchy's folder has the controllers' names, and each one's own leads there.
      each_level(root / controllers, group, GroupVersion::v1, f);
      each_level(root / controller, group, GroupVersion::v1, f);
    }
  }
}

std::string own_control_groups() {
  std::ifstream file("/proc/self/cgroup");
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace runner
