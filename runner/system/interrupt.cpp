#include "system/interrupt.h"

#include <csignal>

namespace runner {
namespace {

volatile std::sig_atomic_t mark = 0;  // a signal handler can reach nothing else

}  // namespace

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = [](int) { mark = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // and a pending read() ends
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() { return mark != 0; }

void forget_interrupt() {
  mark = 0;
  catch_interrupts();
}

}  // namespace runner
