#include "system/interrupt.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/cpp/check.h"

using namespace runner;

namespace {

// The status that wait() reports of a process that does `body` and then ends.
int status_of(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(interrupted() ? 3 : 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

}  // namespace

TEST(the_first_sets_a_mark_and_the_second_ends_the_program) {
  const int marked = status_of([] {
    catch_interrupts();
    std::raise(SIGINT);
  });
  CHECK(WIFEXITED(marked) && WEXITSTATUS(marked) == 3);
  const int ended = status_of([] {
    catch_interrupts();
    std::raise(SIGINT);
    std::raise(SIGINT);
  });
  CHECK(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGINT);
}

TEST(after_forgetting_the_next_is_a_first_one) {
  const int forgotten = status_of([] {
    catch_interrupts();
    std::raise(SIGINT);
    forget_interrupt();
  });
  CHECK(WIFEXITED(forgotten) && WEXITSTATUS(forgotten) == 0);
  const int again = status_of([] {
    catch_interrupts();
    std::raise(SIGINT);
    forget_interrupt();
    std::raise(SIGINT);
  });
  CHECK(WIFEXITED(again) && WEXITSTATUS(again) == 3);
}

CHECK_MAIN()
