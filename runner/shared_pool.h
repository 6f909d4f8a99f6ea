#pragma once

#include "runner/thread_pool.h"

namespace runner {

// The program's thread pool, which the operators in a model reach through
// lowbit::current_host(). The first call sets the number of threads.
ThreadPool& shared_pool(int threads = 1);

}  // namespace runner
