#pragma once

#include "system/thread_pool.h"

namespace runner {

// The program's thread pool, which the operators in a model reach through
// lowbit::current_host(). With `threads` it is one of that many from now on: where it had another
// number it is made anew, which no other thread may be using it for. Throws Error when the system
// does not give that many. 0: as it is, of one thread at first.
ThreadPool& shared_pool(int threads = 0);

}  // namespace runner
