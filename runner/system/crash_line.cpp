#include "system/crash_line.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

namespace runner {
namespace {

// Text of at most N bytes that a signal handler may read: it can reach nothing but what is static, and
// must not allocate.
template <size_t N>
class Text {
 public:
  void clear() { size_ = 0; }
  Text& operator<<(std::string_view more) {
    const size_t n = std::min(more.size(), N - size_);
    std::copy_n(more.begin(), n, bytes_.begin() + size_);
    size_ += n;
    return *this;
  }
  std::string_view view() const { return {bytes_.data(), size_}; }

 private:
  std::array<char, N> bytes_{};
  size_t size_ = 0;
};

constinit Text<256> program, needs;
// The one not in use is written, then taken: a crash in between reads a whole one.
constinit std::array<Text<1024>, 2> activities;
volatile std::sig_atomic_t activity = 0;
std::array<char, 64 << 10> stack;

constexpr std::string_view kTryAgain =
    "; a bug of the program or of the model's code, or a damaged file: compare its checksum with the "
    "original's, or export it again, and report the bug where that does not help";

struct Cause {
  std::string_view name, remedy;
};

Cause cause_of(const siginfo_t& info) {
  switch (info.si_signo) {
    case SIGSEGV: return {"segmentation fault (SIGSEGV)", kTryAgain};
    case SIGFPE: return {"arithmetic error (SIGFPE)", kTryAgain};
    case SIGABRT: return {"a failed check ended the program (SIGABRT)", kTryAgain};
    case SIGILL: return {"illegal instruction (SIGILL)", needs.view()};
    default: break;
  }
  if (info.si_code == BUS_ADRALN) return {"misaligned access (SIGBUS)", kTryAgain};
  return {"bus error (SIGBUS)",
          "; a mapped file could not be read: it was cut short while it was in use, or its disk failed; "
          "see the system's log, and copy the file again"};
}

bool sent_by_another(const siginfo_t& info) {
  return (info.si_code == SI_USER || info.si_code == SI_QUEUE) && info.si_pid != getpid();
}

void report(int signal, siginfo_t* info, void*) {
  const int error = errno;
  Cause cause = cause_of(*info);
  if (sent_by_another(*info)) cause.remedy = "; another program sent the signal";
  Text<2048> line;
  line << program.view() << ": " << cause.name << " while "
       << activities[static_cast<size_t>(activity)].view() << cause.remedy;
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.view().data(), line.view().size());
  [[maybe_unused]] const ssize_t ended = write(STDERR_FILENO, "\n", 1);
  errno = error;
  raise(signal);  // its action is the default again; it comes when this returns, where the crash was
}

}  // namespace

void explain_crashes(const CrashWords& words) {
  if (kSanitized) return;
  program << words.program;
  needs << words.needs;
  // A stack of its own: the crash may be that the ordinary one overflowed.
  stack_t alternate = {};
  alternate.ss_sp = stack.data();
  alternate.ss_size = stack.size();
  sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = report;
  action.sa_flags = SA_ONSTACK | SA_SIGINFO | SA_RESETHAND;
  for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) sigaction(signal, &action, nullptr);
}

void set_crash_activity(std::string_view doing) {
  const int next = 1 - activity;
  activities[static_cast<size_t>(next)].clear();
  activities[static_cast<size_t>(next)] << doing;
  activity = next;
}

}  // namespace runner
