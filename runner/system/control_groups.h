#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace runner {

enum class GroupVersion { v1, v2 };

// Calls f(folder, version) for the folder of each control group whose limits on `controller` count for a
// process, some of which may not be there: a group has the limits of those above it, too, and in a
// container the path may be the host's, of which only the root, the container's own group, can be seen.
// `cgroups` is what /proc/self/cgroup says, `sys` where Linux describes the machine. Source: Linux,
// cgroups(7).
void each_control_group(
    const std::string& cgroups, const std::filesystem::path& sys, const std::string& controller,
    const std::function<void(const std::filesystem::path& folder, GroupVersion version)>& f);

// What /proc/self/cgroup says; "" where there is none.
std::string own_control_groups();

}  // namespace runner
