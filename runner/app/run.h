#pragma once

#include <chrono>

#include "app/args.h"

namespace runner {

// What a runner does after its command line is read: text to standard output, all else to
// standard error. `start` is when the program began. Returns the exit status: 0, 1 when a chat
// refused something, 130 after an interrupt. Throws Error.
int run(const Args& args, std::chrono::steady_clock::time_point start);

}  // namespace runner
