#include "system/cpu_count.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cpp/check.h"

using namespace runner;
namespace fs = std::filesystem;

namespace {

// What Linux would tell of a machine; gone with the object.
class FakeSys {
 public:
  FakeSys() { fs::create_directories(root_); }
  ~FakeSys() { fs::remove_all(root_); }
  FakeSys(const FakeSys&) = delete;
  FakeSys& operator=(const FakeSys&) = delete;

  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << "\n";
  }

  void cpu(int number, const std::string& file, const std::string& text) const {
    write("devices/system/cpu/cpu" + std::to_string(number) + "/" + file, text);
  }

  int cores(const std::set<int>& allowed, const std::string& cgroups = "0::/\n") const {
    return performance_cores(allowed, cgroups, root_);
  }

 private:
  fs::path root_ = fs::temp_directory_path() / ("cpu_count_test-" + std::to_string(getpid()));
};

std::set<int> range(int first, int last) {
  std::set<int> cpus;
  for (int cpu = first; cpu <= last; ++cpu) cpus.insert(cpu);
  return cpus;
}

int with_variable(const char* value, int flag = 0) {
  setenv("OMP_NUM_THREADS", value, 1);
  const int count = thread_count(flag);
  unsetenv("OMP_NUM_THREADS");
  return count;
}

}  // namespace

TEST(a_machine_that_says_nothing) {
  const FakeSys sys;
  CHECK_EQ(sys.cores(range(0, 3)), 4);
  CHECK_EQ(sys.cores({7}), 1);
  CHECK_EQ(sys.cores({}), 1);
}

TEST(hardware_threads_of_a_core_count_once) {
  const FakeSys sys;
  for (int cpu = 0; cpu < 8; ++cpu) {
    sys.cpu(cpu, "topology/thread_siblings_list",
            std::to_string(cpu % 4) + "," + std::to_string(cpu % 4 + 4));
  }
  CHECK_EQ(sys.cores(range(0, 7)), 4);
  CHECK_EQ(sys.cores({0, 4}), 1);
  CHECK_EQ(sys.cores({0, 1, 4}), 2);
}

TEST(mixed_x86) {
  const FakeSys sys;  // four fast cores of two threads, eight slow ones
  sys.write("devices/cpu_core/cpus", "0-7");
  sys.write("devices/cpu_atom/cpus", "8-15");
  for (int cpu = 0; cpu < 16; ++cpu) {
    const int first = cpu / 2 * 2;
    sys.cpu(
        cpu, "topology/thread_siblings_list",
        cpu < 8 ? std::to_string(first) + "-" + std::to_string(first + 1) : std::to_string(cpu));
  }
  CHECK_EQ(sys.cores(range(0, 15)), 4);
  CHECK_EQ(sys.cores({1, 6, 9, 10}), 2);
  CHECK_EQ(sys.cores(range(8, 15)), 8);  // slow cores, where there is no choice
}

TEST(lists_of_cpus) {
  const FakeSys sys;
  for (const auto& [list, count] : std::vector<std::pair<const char*, int>>{
           {"0", 1}, {"0-1,4", 3}, {"0-3,6-7", 6}, {"10", 8}, {"", 8}, {"x-y", 8}, {"5-", 8}}) {
    sys.write("devices/cpu_core/cpus", list);
    CHECK_EQ(sys.cores(range(0, 7)), count);
  }
}

TEST(mixed_arm) {
  const FakeSys sys;  // four small cores, three middle ones, a big one
  for (int cpu = 0; cpu < 8; ++cpu) {
    sys.cpu(cpu, "cpu_capacity", cpu < 4 ? "300" : cpu < 7 ? "830" : "1024");
  }
  CHECK_EQ(sys.cores(range(0, 7)), 4);
  CHECK_EQ(sys.cores(range(0, 4)), 1);
  CHECK_EQ(sys.cores(range(0, 3)), 4);
  for (int cpu = 4; cpu < 7; ++cpu) sys.cpu(cpu, "cpu_capacity", "800");
  CHECK_EQ(sys.cores(range(0, 7)), 1);  // less than four fifths of 1024
}

TEST(equal_arm_cores) {
  const FakeSys sys;
  for (int cpu = 0; cpu < 4; ++cpu) sys.cpu(cpu, "cpu_capacity", "1024");
  CHECK_EQ(sys.cores(range(0, 3)), 4);
}

TEST(control_groups_limit) {
  const FakeSys sys;
  const std::set<int> allowed = range(0, 15);
  const auto of = [&](const char* text) {
    sys.write("fs/cgroup/cpu.max", text);
    return sys.cores(allowed);
  };
  CHECK_EQ(of("max 100000"), 16);
  CHECK_EQ(of("200000 100000"), 2);
  CHECK_EQ(of("250000 100000"), 3);
  CHECK_EQ(of("10000 100000"), 1);
  CHECK_EQ(of("9000000 100000"), 16);
  for (const char* odd : {"", "0 100000", "100000", "100000 0", "-1 100000", "x y"}) {
    CHECK_EQ(of(odd), 16);
  }
}

TEST(control_groups_above_limit_too) {
  const FakeSys sys;
  const std::set<int> allowed = range(0, 15);
  sys.write("fs/cgroup/a/cpu.max", "600000 100000");
  sys.write("fs/cgroup/a/b/cpu.max", "max 100000");
  sys.write("fs/cgroup/a/b/c/cpu.max", "800000 100000");
  CHECK_EQ(sys.cores(allowed, "0::/\n"), 16);
  CHECK_EQ(sys.cores(allowed, "0::/a\n"), 6);
  CHECK_EQ(sys.cores(allowed, "0::/a/b/c\n"), 6);
  CHECK_EQ(sys.cores(allowed, "0::/elsewhere\n"), 16);
  CHECK_EQ(sys.cores(allowed, "0::/../outside\n"), 16);
  CHECK_EQ(sys.cores(allowed, ""), 16);
}

TEST(control_groups_of_version_1) {
  const FakeSys sys;
  const std::set<int> allowed = range(0, 15);
  const std::string own = "5:memory:/m\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n";
  const auto of = [&](const std::string& folder, const char* quota, const char* period = "100000") {
    sys.write("fs/cgroup/" + folder + "/cpu.cfs_quota_us", quota);
    sys.write("fs/cgroup/" + folder + "/cpu.cfs_period_us", period);
    return sys.cores(allowed, own);
  };
  CHECK_EQ(sys.cores(allowed, own), 16);
  CHECK_EQ(of("cpu,cpuacct", "-1"), 16);
  CHECK_EQ(of("cpu,cpuacct/docker", "750000"), 8);
  CHECK_EQ(of("cpu,cpuacct/docker/x", "150000", "50000"), 3);
  CHECK_EQ(of("cpu,cpuacct/docker/x", "-1"), 8);  // the group above has a limit
  for (const auto& [quota, period] : std::vector<std::pair<const char*, const char*>>{
           {"0", "100000"}, {"100000", "0"}, {"", ""}, {"x", "y"}, {"100000", ""}}) {
    CHECK_EQ(of("cpu,cpuacct/docker/x", quota, period), 8);
  }
  // In a container the group's path is the host's: its own limits are at the root.
  CHECK_EQ(of("cpu,cpuacct", "100000"), 1);
}

TEST(control_groups_of_version_1_under_other_names) {
  const FakeSys sys;
  const std::set<int> allowed = range(0, 15);
  sys.write("fs/cgroup/cpu/g/cpu.cfs_quota_us", "200000");
  sys.write("fs/cgroup/cpu/g/cpu.cfs_period_us", "100000");
  CHECK_EQ(sys.cores(allowed, "4:cpu:/g\n"), 2);
  CHECK_EQ(sys.cores(allowed, "4:cpuacct,cpu:/g\n"), 2);  // mounted under the other order
  CHECK_EQ(sys.cores(allowed, "4:cpuset:/g\n4:cpuacct:/g\n"), 16);
  for (const char* odd : {"", ":", "4:cpu", "cpu:/g", "\n\n", "4:cpu:"}) {
    CHECK_EQ(sys.cores(allowed, odd), 16);
  }
  // Both versions at once: each limits.
  sys.write("fs/cgroup/a/cpu.max", "100000 100000");
  CHECK_EQ(sys.cores(allowed, "4:cpu:/g\n0::/a\n"), 1);
}

TEST(this_machine) {
  const int cores = performance_cores();
  CHECK(cores >= 1 && cores <= static_cast<int>(std::thread::hardware_concurrency()));
}

TEST(the_flag_wins_then_the_environment) {
  unsetenv("OMP_NUM_THREADS");
  CHECK_EQ(thread_count(0), std::min(performance_cores(), kMaxThreads));
  CHECK_EQ(thread_count(3), 3);
  CHECK_EQ(with_variable("5"), 5);
  CHECK_EQ(with_variable("5", 3), 3);
  CHECK_EQ(with_variable("no number", 3), 3);
  CHECK_EQ(with_variable("6,2,1"), 6);
  CHECK_EQ(with_variable(" 7 , 2"), 7);
  CHECK_EQ(with_variable("100000"), kMaxThreads);
  CHECK_EQ(with_variable(""), thread_count(0));  // the same as unset
}

TEST(a_malformed_environment_is_left_out_and_named) {
  unsetenv("OMP_NUM_THREADS");
  const int without = thread_count(0);
  for (const char* value : {"0", "-2", "two", "2x", "1.5", ",2", " ", "99999999999999999999"}) {
    CHECK_EQ(with_variable(value), without);
    CHECK_EQ(with_variable(value, 3), 3);
    setenv("OMP_NUM_THREADS", value, 1);
    const std::string word = ignored_variable(0);
    CHECK(word.find("OMP_NUM_THREADS '" + std::string(value) + "'") == 0);
    CHECK(word.find(std::to_string(without) + " thread") != std::string::npos);
    CHECK_EQ(ignored_variable(3), "");
  }
  for (const char* value : {"1", "6,2", " 7 ", ""}) {
    setenv("OMP_NUM_THREADS", value, 1);
    CHECK_EQ(ignored_variable(0), "");
  }
  unsetenv("OMP_NUM_THREADS");
  CHECK_EQ(ignored_variable(0), "");
}

CHECK_MAIN()
