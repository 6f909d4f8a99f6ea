#include "system/cpu_count.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>

#include "system/control_groups.h"

#ifdef __linux__
#include <sched.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

namespace runner {
namespace {

namespace fs = std::filesystem;

// The file's first line; empty when there is none.
std::string first_line_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<int64_t> whole_number(std::string_view text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && stop == end) return number;
  return std::nullopt;
}

// Those of `cpus` that a list in Linux's form, such as "0-3,8", names.
std::set<int> in_list(const std::set<int>& cpus, const std::string& list) {
  std::set<int> found;
  std::istringstream ranges(list);
  for (std::string range; std::getline(ranges, range, ',');) {
    const size_t dash = std::min(range.find('-'), range.size());
    const auto first = whole_number(range.substr(0, dash));
    const auto last = dash == range.size() ? first : whole_number(range.substr(dash + 1));
    if (!first || !last) continue;
    for (int cpu : cpus) {
      if (cpu >= *first && cpu <= *last) found.insert(cpu);
    }
  }
  return found;
}

fs::path cpu_folder(const fs::path& sys, int cpu) {
  return sys / "devices/system/cpu" / ("cpu" + std::to_string(cpu));
}

// x86 names the fast CPUs of a mixed chip.
std::set<int> named_fast(const std::set<int>& cpus, const fs::path& sys) {
  const std::set<int> fast = in_list(cpus, first_line_of(sys / "devices/cpu_core/cpus"));
  return fast.empty() ? cpus : fast;
}

// Arm gives each CPU a capacity, 1024 for the fastest. Those a fifth below the best are of the
// same kind at another clock; the next kind is slower than that.
std::set<int> of_high_capacity(const std::set<int>& cpus, const fs::path& sys) {
  const auto capacity = [&](int cpu) {
    return whole_number(first_line_of(cpu_folder(sys, cpu) / "cpu_capacity")).value_or(0);
  };
  int64_t best = 0;
  for (int cpu : cpus) best = std::max(best, capacity(cpu));
  std::set<int> fast;
  for (int cpu : cpus) {
    if (capacity(cpu) * 5 >= best * 4) fast.insert(cpu);
  }
  return fast;
}

// Hardware threads of one core count once.
int count_cores(const std::set<int>& cpus, const fs::path& sys) {
  std::set<std::string> cores;
  for (int cpu : cpus) {
    const std::string siblings =
        first_line_of(cpu_folder(sys, cpu) / "topology/thread_siblings_list");
    cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
  }
  return static_cast<int>(cores.size());
}

// The CPUs' worth of time that a quota in each period allows; none for what is no limit.
std::optional<int64_t> cpus_of(const std::string& quota_and_period) {
  std::istringstream words(quota_and_period);
  int64_t time = 0, period = 0;
  if (!(words >> time >> period) || time <= 0 || period <= 0) return std::nullopt;
  return (time - 1) / period + 1;
}

// Of version 2: cpu.max holds the quota, or "max" for no limit, and the period.
std::optional<int64_t> quota_of_v2(const fs::path& folder) {
  return cpus_of(first_line_of(folder / "cpu.max"));
}

// Of version 1: the quota is -1 for no limit.
std::optional<int64_t> quota_of_v1(const fs::path& folder) {
  return cpus_of(first_line_of(folder / "cpu.cfs_quota_us") + " " +
                 first_line_of(folder / "cpu.cfs_period_us"));
}

int64_t within_quotas(int64_t count, const std::string& cgroups, const fs::path& sys) {
  each_control_group(cgroups, sys, "cpu", [&](const fs::path& folder, GroupVersion version) {
    const auto quota = version == GroupVersion::v2 ? quota_of_v2(folder) : quota_of_v1(folder);
    count = std::min(count, quota.value_or(count));
  });
  return count;
}

// OMP_NUM_THREADS where it is set: its number of threads, none where it has none.
struct Variable {
  std::string text;
  std::optional<int64_t> count;
};

std::optional<Variable> thread_variable() {
  const char* set = std::getenv("OMP_NUM_THREADS");
  if (!set || !*set) return std::nullopt;
  // OpenMP allows a list, one number a level of nesting, with blanks around them.
  Variable variable{set, std::nullopt};
  std::string first = variable.text.substr(0, variable.text.find(','));
  first.erase(0, std::min(first.find_first_not_of(' '), first.size()));
  first.erase(first.find_last_not_of(' ') + 1);
  variable.count = whole_number(first);
  if (variable.count && *variable.count < 1) variable.count.reset();
  return variable;
}

}  // namespace

int performance_cores(const std::set<int>& allowed, const std::string& cgroups,
                      const fs::path& sys) {
  const std::set<int> fast = of_high_capacity(named_fast(allowed, sys), sys);
  return static_cast<int>(
      std::max<int64_t>(1, within_quotas(count_cores(fast, sys), cgroups, sys)));
}

int performance_cores() {
#ifdef __linux__
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    std::set<int> allowed;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &mask)) allowed.insert(cpu);
    }
    return performance_cores(allowed, own_control_groups());
  }
#endif
#ifdef __APPLE__
  for (const char* name : {"hw.perflevel0.physicalcpu", "hw.physicalcpu"}) {
    int count = 0;
    size_t size = sizeof count;
    if (sysctlbyname(name, &count, &size, nullptr, 0) == 0 && count > 0) return count;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int thread_count(int flag) {
  if (flag > 0) return std::min(flag, kMaxThreads);
  const std::optional<Variable> variable = thread_variable();
  if (!variable || !variable->count) return std::min(performance_cores(), kMaxThreads);
  return static_cast<int>(std::min<int64_t>(*variable->count, kMaxThreads));
}

std::string ignored_variable(int flag) {
  if (flag > 0) return "";
  const std::optional<Variable> variable = thread_variable();
  if (!variable || variable->count) return "";
  const int count = thread_count(0);
  return "OMP_NUM_THREADS '" + variable->text + "' is not a whole number from 1 up and is ignored: " +
         std::to_string(count) + (count == 1 ? " thread" : " threads");
}

}  // namespace runner
