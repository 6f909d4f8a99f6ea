#pragma once

namespace runner {

// From here on the first SIGINT only sets a mark; a second one ends the program as usual.
void catch_interrupts();

bool interrupted();

}  // namespace runner
