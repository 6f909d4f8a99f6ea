#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace runner {

// The bytes of memory that a process can still take: what the system has to give without swapping, and no
// more than its control groups leave. None where the system does not say. Source: Linux, proc_meminfo(5)
// (MemAvailable), admin-guide/cgroup-v2.rst (memory.max, memory.current), cgroup-v1/memory.rst.
std::optional<int64_t> available_memory();

// The same from what /proc/meminfo and /proc/self/cgroup say.
std::optional<int64_t> available_memory(const std::string& meminfo, const std::string& cgroups,
                                        const std::filesystem::path& sys);

}  // namespace runner
