// The choice of an instruction set.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <set>
#include <stdexcept>
#include <string>

#include "kernels/isa.h"
#include "tests/cpp/check.h"

namespace {

// What `body` returns in a process of its own that has LOWBIT_ISA=value: the choice is made once a
// process.
template <typename Body>
bool holds_with(const char* value, Body body) {
  const pid_t process = fork();
  if (process == 0) {
    setenv("LOWBIT_ISA", value, 1);
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  waitpid(process, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool refused() {
  try {
    lowbit::isa_name();
  } catch (const std::runtime_error& error) {
    return std::string(error.what()).starts_with("LOWBIT_ISA=");
  }
  return false;
}

}  // namespace

TEST(names_are_unique_and_the_last_runs_anywhere) {
  std::set<std::string> names;
  for (const lowbit::Isa* isa : lowbit::all_isas()) CHECK(names.insert(isa->name).second);
  CHECK_EQ(std::string(lowbit::all_isas().back()->name), "scalar");
  CHECK(lowbit::all_isas().back()->supported());
}

TEST(the_best_is_the_first_supported) {
  for (const lowbit::Isa* isa : lowbit::all_isas()) {
    if (!isa->supported()) continue;
    CHECK(&lowbit::find_isa(nullptr) == isa);
    CHECK(&lowbit::find_isa("") == isa);
    break;
  }
}

TEST(a_forced_name_is_the_one_that_runs) {
  for (const lowbit::Isa* isa : lowbit::all_isas()) {
    if (!isa->supported()) continue;
    CHECK(&lowbit::find_isa(isa->name) == isa);
    CHECK(holds_with(isa->name, [&] { return std::string(lowbit::isa_name()) == isa->name; }));
  }
}

TEST(unknown_names_are_errors_that_list_the_known) {
  std::string known;
  for (const lowbit::Isa* isa : lowbit::all_isas()) {
    if (isa->supported()) known += (known.empty() ? "" : ", ") + std::string(isa->name);
  }
  for (const std::string name : {"avx3", "AVX2", "scalar ", "neon,scalar", "0"}) {
    CHECK_THROWS(std::runtime_error, lowbit::find_isa(name.c_str()),
                 "LOWBIT_ISA=" + name + " is unknown; use one of " + known + ", or unset it");
    CHECK(holds_with(name.c_str(), refused));
  }
}

TEST(known_names_that_this_cpu_lacks_are_errors) {
  for (const lowbit::Isa* isa : lowbit::all_isas()) {
    if (isa->supported()) continue;
    CHECK_THROWS(std::runtime_error, lowbit::find_isa(isa->name),
                 "LOWBIT_ISA=" + std::string(isa->name) + ": this CPU does not have it; unset it");
    CHECK(holds_with(isa->name, refused));
  }
}

CHECK_MAIN()
