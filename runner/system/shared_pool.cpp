#include "system/shared_pool.h"

#include <memory>

#include "kernels/bindings/interface.h"

namespace runner {

ThreadPool& shared_pool(int threads) {
  static std::unique_ptr<ThreadPool> pool;
  if (pool == nullptr || (threads > 0 && threads != pool->threads())) {
    pool.reset();  // first: its threads are gone before others come
    pool = std::make_unique<ThreadPool>(threads > 0 ? threads : 1);
  }
  return *pool;
}

}  // namespace runner

// A model's operators get no context from their framework that could carry the pool.
lowbit::Host& lowbit::current_host() { return runner::shared_pool(); }
