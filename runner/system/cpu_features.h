#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace runner {

// Names of what this machine's CPU supports and its system enables, as Linux spells them in
// /proc/cpuinfo ("flags" on x86, "Features" on Arm). Empty where the system does not say.
std::optional<std::set<std::string>> cpu_features();

// Those of `needed` that `available` lacks.
std::vector<std::string> missing_features(const std::vector<std::string>& needed,
                                          const std::set<std::string>& available);

}  // namespace runner
