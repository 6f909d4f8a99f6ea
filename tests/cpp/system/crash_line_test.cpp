// Crashes in a child: the line it leaves on standard error, and the signal that ends it.

#include "system/crash_line.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include "tests/cpp/check.h"
#include "text/printable.h"

using namespace runner;

namespace {

struct Ended {
  std::string line;
  int signal = 0;  // 0: it exited
};

Ended ended(const std::function<void()>& crash) {
  int ends[2];
  if (pipe(ends) != 0) return {"no pipe", 0};
  const pid_t child = fork();
  if (child == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    dup2(ends[1], STDERR_FILENO);
    explain_crashes({.program = "prog", .needs = "; it needs another CPU"});
    set_crash_activity("loading a.bin");
    set_crash_activity("running a.bin");
    crash();
    _exit(0);
  }
  close(ends[1]);
  Ended result;
  char bytes[4096];
  for (ssize_t n = 0; (n = read(ends[0], bytes, sizeof bytes)) > 0;) {
    result.line.append(bytes, static_cast<size_t>(n));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

void expect(const Ended& found, int signal, const std::string& words) {
  CHECK_EQ(found.signal, signal);
  CHECK(found.line.starts_with("prog: "));
  CHECK(found.line.find(" while running a.bin; ") != std::string::npos);
  CHECK(found.line.find(words) != std::string::npos);
  CHECK_EQ(found.line.find('\n'), found.line.size() - 1);
}

// What no compiler can see through.
volatile int* volatile nowhere = nullptr;

int overflow(int depth) {
  volatile char page[4096];
  page[0] = static_cast<char>(depth);
  return depth < 0 ? 0 : overflow(depth + 1) + page[0];
}

void touch_a_truncated_file() {
  const std::string name = std::filesystem::temp_directory_path() / "crash_line_test-XXXXXX";
  std::string path = name;
  const int file = mkstemp(path.data());
  unlink(path.c_str());
  if (ftruncate(file, 8192) != 0) return;
  void* memory = mmap(nullptr, 8192, PROT_READ, MAP_SHARED, file, 0);
  if (ftruncate(file, 0) != 0) return;
  [[maybe_unused]] const volatile char byte = static_cast<volatile char*>(memory)[5000];
}

}  // namespace

TEST(each_signal_is_named_and_ends_the_program) {
  if (kSanitized) return;
  expect(ended([] { *nowhere = 1; }), SIGSEGV, "segmentation fault (SIGSEGV)");
  expect(ended([] { std::abort(); }), SIGABRT, "SIGABRT");
  expect(ended([] { raise(SIGFPE); }), SIGFPE, "SIGFPE");
  expect(ended([] { raise(SIGILL); }), SIGILL, "it needs another CPU");
}

TEST(a_stack_that_overflows) {
  if (kSanitized) return;
  expect(ended([] { overflow(0); }), SIGSEGV, "SIGSEGV");
}

TEST(a_mapped_file_that_was_cut_short) {
  if (kSanitized) return;
  expect(ended(touch_a_truncated_file), SIGBUS, "cut short while it was in use");
}

TEST(no_line_says_that_the_file_is_damaged_for_sure) {
  if (kSanitized) return;
  for (const int signal : {SIGSEGV, SIGABRT, SIGFPE, SIGILL, SIGBUS}) {
    const std::string line = ended([&] { raise(signal); }).line;
    CHECK(line.find("is damaged") == std::string::npos);
  }
  CHECK(ended([] { raise(SIGILL); }).line.find("damaged") == std::string::npos);
}

TEST(a_signal_that_another_program_sends) {
  if (kSanitized) return;
  const Ended found = ended([] {
    const pid_t self = getpid();
    if (fork() == 0) {
      kill(self, SIGSEGV);
      _exit(0);
    }
    sleep(10);
  });
  expect(found, SIGSEGV, "another program sent the signal");
}

TEST(a_program_that_does_not_crash_says_nothing) {
  const Ended found = ended([] {});
  CHECK_EQ(found.signal, 0);
  CHECK_EQ(found.line, "");
}

TEST(printable_lines) {
  CHECK_EQ(printable("plain"), "plain");
  CHECK_EQ(printable("a\nb\tc\x1b[0m\x7f"), "a b c [0m ");
  CHECK_EQ(printable("gr\xc3\xbc\xc3\x9f.pte \xf0\x9f\x98\x80 \xef\xbf\xbd"),
           "gr\xc3\xbc\xc3\x9f.pte \xf0\x9f\x98\x80 \xef\xbf\xbd");
  CHECK_EQ(printable("gr\xfc\xdf.pte"), "gr\\xfc\\xdf.pte");
  CHECK_EQ(printable("\xe2\x82"), "\\xe2\\x82");  // cut off
  CHECK_EQ(printable("\xc3\xc3\xa9"), "\\xc3\xc3\xa9");
  CHECK_EQ(printable(""), "");
}

CHECK_MAIN()
