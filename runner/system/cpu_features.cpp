#include "system/cpu_features.h"

#include <fstream>
#include <sstream>

namespace runner {

// The system's own list, not cpuid: it has every name an artifact may ask for, on each
// architecture, and leaves out what the kernel has not enabled.
std::optional<std::set<std::string>> cpu_features() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("flags") && !line.starts_with("Features")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    std::set<std::string> names;
    for (std::string name; words >> name;) names.insert(name);
    return names;
  }
  return std::nullopt;
}

std::vector<std::string> missing_features(const std::vector<std::string>& needed,
                                          const std::set<std::string>& available) {
  std::vector<std::string> missing;
  for (const std::string& name : needed) {
    if (!available.contains(name)) missing.push_back(name);
  }
  return missing;
}

}  // namespace runner
