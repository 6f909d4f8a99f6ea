#pragma once

#include <filesystem>
#include <set>
#include <string>

namespace runner {

constexpr int kMaxThreads = 256;

// How many threads a program should use that may run on the CPUs `allowed`: one for each core of
// the fastest kind among them, and no more than the CPU time that its control groups may use. At
// least 1. `cgroups` is what /proc/self/cgroup says: a line each for version 2, "0::PATH", and for a
// hierarchy of version 1, "NUMBER:CONTROLLERS:PATH", both at once on some machines. `sys` is where Linux
// describes the machine; what it leaves out limits nothing. Source: Linux, admin-guide/cgroup-v2.rst
// (cpu.max), scheduler/sched-bwc.rst (cpu.cfs_quota_us, cpu.cfs_period_us), cgroups(7).
int performance_cores(const std::set<int>& allowed, const std::string& cgroups,
                      const std::filesystem::path& sys = "/sys");

// The same for this process.
int performance_cores();

// The number of threads: `flag` (the value of --threads) where it is not 0, else OMP_NUM_THREADS
// where it is a number of threads, else performance_cores(); at most kMaxThreads.
int thread_count(int flag);

// What is to be said of an OMP_NUM_THREADS that is set, counts because `flag` is 0, and is no number of
// threads, so that thread_count leaves it out; "" where there is nothing to say.
std::string ignored_variable(int flag);

}  // namespace runner
