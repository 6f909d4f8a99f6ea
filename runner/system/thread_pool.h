#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/lowbit.h"

namespace runner {

// The one thread pool of a program. Workers without work spin for a moment, then sleep. One that
// sleeps, or that the system has set aside, delays nobody unless it holds a part of the work: the
// caller takes what the others leave.
//
// One thread at a time may call it. A task must not throw: that ends the program.
class ThreadPool final : public lowbit::Host {
 public:
  using Task = void (*)(void* context, int64_t begin, int64_t end);

  // `threads` from 1 to kMaxThreads; the calling thread is one of them. Throws Error when the
  // system does not give that many.
  explicit ThreadPool(int threads);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // At most 3 parts a thread, each but the last a whole multiple of `grain` long. Runs in the
  // calling thread when there is one part or one thread, and when a task calls it.
  void parallel_for(int64_t n, int64_t grain, Task task, void* context) override;

  // Grows and never shrinks.
  void* scratch(size_t bytes) override;

 private:
  struct Job {
    Task task;
    void* context;
    int64_t n, grain;
    int64_t large;          // the first parts are two shares of the work each, the others one
    int64_t units, longer;  // grains in a share; the first `longer` shares have one more
    void run(int64_t part) const;
  };
  struct FreeAligned {
    void operator()(void* memory) const;
  };

  void work();
  void sleep(uint64_t seen);
  void stop();
  int run_parts() noexcept;
  void wake_workers(int64_t wanted);
  void wait_for(int parts);

  // What workers watch, and on the same cache line what they read after a claim. The caller writes
  // `job_` only while no part is claimed.
  alignas(64) std::atomic<uint64_t> claims_ = 0;  // number of the job, its parts, the next part
  Job job_ = {};
  alignas(64) std::atomic<int> done_ = 0;  // parts of this job that workers have finished
  std::atomic<int> awaited_ = -1;          // the value of done_ that the caller sleeps for
  alignas(64) std::atomic<int> sleepers_ = 0;
  std::atomic<int> wakes_ = 0;  // what sleepers sleep on: it counts the times they are woken
  std::atomic<bool> stopped_ = false;
  std::chrono::nanoseconds spin_;
  std::vector<std::thread> workers_;
  std::unique_ptr<void, FreeAligned> scratch_;
  size_t scratch_size_ = 0;
};

}  // namespace runner
