#include "runner/shared_pool.h"

#include "kernels/bindings/calls.h"

namespace runner {

ThreadPool& shared_pool(int threads) {
  static ThreadPool pool(threads);
  return pool;
}

}  // namespace runner

// A model's operators get no context from their framework that could carry the pool.
lowbit::Host& lowbit::current_host() { return runner::shared_pool(); }
