#pragma once

// Runs a test program once for each instruction set that the CPU has, each in a process of its own
// (the choice is made once a process), and compares what the processes report().
//
//     TEST(name) { ...; report("linear", hash); }
//     KERNEL_TEST_MAIN()
//
// The program's argument, if any, is the one entry to run, or "best".

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include "kernels/isa.h"
#include "tests/cpp/check.h"

namespace kernel_test {

// A hash of floats. NaNs count as one: their sign and payload are the CPU's own.
class Hash {
 public:
  void add(std::span<const float> values) {
    for (const float x : values) {
      uint32_t bits;
      std::memcpy(&bits, &x, sizeof(bits));
      if (x != x) bits = 0x7fc00000;
      value_ = (value_ ^ bits) * 0x100000001b3;
      value_ ^= value_ >> 29;
    }
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325;
};

inline constexpr const char* kReported = "bits ";

// Results that must be the same on every instruction set and machine.
inline void report(const std::string& what, const Hash& hash) {
  char digits[17];
  std::snprintf(digits, sizeof(digits), "%016" PRIx64, hash.value());
  std::cout << kReported << digits << " " << what << std::endl;
}

// A process that runs the tests on one entry.
struct IsaRun {
  const char* name;
  FILE* output;
  pid_t process;

  // Waits. Returns whether all tests passed.
  bool passed() const {
    int status = 0;
    waitpid(process, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  std::string text() const {
    std::string result;
    std::rewind(output);
    for (int c; (c = std::getc(output)) != EOF;) result += static_cast<char>(c);
    return result;
  }
};

inline IsaRun start(const char* name) {
  const IsaRun run{name, std::tmpfile(), fork()};
  if (run.process != 0) return run;
  dup2(fileno(run.output), STDOUT_FILENO);
  dup2(fileno(run.output), STDERR_FILENO);
  setenv("LOWBIT_ISA", name, 1);
  CHECK_EQ(std::string(lowbit::isa_name()), std::string(name));
  const int status = check::run_all();
  std::cout.flush();
  std::exit(status);
}

// The lines of report().
inline std::string reported(const std::string& text) {
  std::string result;
  for (size_t begin = 0, end; begin < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    if (line.starts_with(kReported)) result += line + "\n";
  }
  return result;
}

inline int run_on_each_isa(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  std::vector<IsaRun> runs;
  for (const lowbit::Isa* isa : lowbit::all_isas()) {
    if (!isa->supported() || (wanted == "best" && !runs.empty())) continue;
    if (wanted.empty() || wanted == "best" || wanted == isa->name) runs.push_back(start(isa->name));
  }
  if (runs.empty()) {
    std::cerr << "this CPU has no entry " << wanted << "\n";
    return 2;
  }
  bool all_passed = true;
  std::string first;
  for (const IsaRun& run : runs) {
    const bool passed = run.passed();
    const std::string text = run.text(), bits = reported(text);
    if (&run == &runs.front()) {
      first = bits;
      std::cout << text;
    } else if (!passed) {
      std::cout << text;
    } else if (bits != first) {
      std::cout << bits << "other bits than " << runs.front().name << "\n";
    }
    all_passed &= passed && bits == first;
    std::cout << (passed && bits == first ? "ok     " : "FAILED ") << "on " << run.name << "\n";
  }
  return all_passed ? 0 : 1;
}

}  // namespace kernel_test

#define KERNEL_TEST_MAIN() \
  int main(int argc, char** argv) { return kernel_test::run_on_each_isa(argc, argv); }
