// What models on stock operators or XNNPACK need beside ExecuTorch's runtime: its kernels, its XNNPACK
// backend and its thread pool, 14 MB of libraries. et_model.cpp opens this library, which brings them,
// where an artifact asks for them.

#include <cstddef>
#include <cstdint>

// The wheel ships the thread pool's library without its header; these are the members we call.
// Source: ExecuTorch 1.5.1, extension/threadpool/threadpool.h.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t num_threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

extern "C" [[gnu::visibility("default")]] void et_stock_use_threads(uint32_t threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool->get_thread_count() != threads) pool->_unsafe_reset_threadpool(threads);
}
