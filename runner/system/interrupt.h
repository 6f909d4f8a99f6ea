#pragma once

namespace runner {

// From here on the first SIGINT only sets a mark; a second one ends the program as usual.
void catch_interrupts();

bool interrupted();

// Takes the mark away, so that the next SIGINT is a first one again.
void forget_interrupt();

}  // namespace runner
