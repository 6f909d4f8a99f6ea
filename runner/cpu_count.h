#pragma once

#include <filesystem>
#include <set>
#include <string>

namespace runner {

constexpr int kMaxThreads = 256;

// How many threads a program should use that may run on the CPUs `allowed`: one for each core of
// the fastest kind among them, and no more than the CPU time that the control group `cgroup` may
// use. At least 1. `sys` is where Linux describes the machine; what it leaves out limits nothing.
int performance_cores(const std::set<int>& allowed, const std::string& cgroup,
                      const std::filesystem::path& sys = "/sys");

// The same for this process.
int performance_cores();

// The number of threads: `flag` (the value of --threads) where it is not 0, else OMP_NUM_THREADS
// where it is set, else performance_cores(); at most kMaxThreads. Throws Error when
// OMP_NUM_THREADS is not a number of threads.
int thread_count(int flag);

}  // namespace runner
