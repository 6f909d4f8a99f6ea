#include "system/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <limits>
#include <new>
#include <string>
#include <system_error>

#include "system/cpu_count.h"
#include "system/error.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace runner {
namespace {

using std::chrono::steady_clock;

// For each thread one large part, which reads memory in one long stretch, and two of half its size,
// which go to whoever comes first.
constexpr int kPartsPerThread = 3;
constexpr size_t kAlignment = 64;

// claims_: 12 bits of the next part, 12 of the number of parts, 40 of the number of the job. A
// claim is made by compare-and-swap of the whole, so one that comes late, when another job has
// taken the place of the one it looked at, fails.
constexpr int kPartBits = 12;
constexpr uint64_t kPartMask = (uint64_t{1} << kPartBits) - 1;
static_assert(kMaxThreads * kPartsPerThread <= kPartMask);

int64_t next_part(uint64_t claims) { return static_cast<int64_t>(claims & kPartMask); }
int64_t n_parts(uint64_t claims) { return static_cast<int64_t>(claims >> kPartBits & kPartMask); }
uint64_t job_number(uint64_t claims) { return claims >> 2 * kPartBits; }

// Long enough for the serial code between two operators. With more threads than CPUs a spinning
// thread stands in the way of a working one.
std::chrono::nanoseconds spin_time(int threads) {
  const unsigned cpus = std::thread::hardware_concurrency();
  return std::chrono::microseconds(static_cast<unsigned>(threads) <= cpus ? 50 : 0);
}

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");  // `yield` does nothing on most cores
#endif
}

template <typename Ready>
bool spin(std::chrono::nanoseconds time, Ready ready) {
  const auto look = [&] {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      relax();
    }
    return false;
  };
  if (look()) return true;
  const auto end = steady_clock::now() + time;
  while (steady_clock::now() < end) {
    if (look()) return true;
  }
  return false;
}

// While this lives, new threads leave the program's signals to the main thread, whose reads an
// interrupt must end. Those that a thread raises by its own fault stay its own.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

thread_local bool inside_task = false;

}  // namespace

void ThreadPool::Job::run(int64_t part) const {
  const auto start = [&](int64_t i) {
    const int64_t share = i + std::min(i, large);
    return (share * units + std::min(share, longer)) * grain;
  };
  task(context, start(part), std::min(start(part + 1), n));
}

void ThreadPool::FreeAligned::operator()(void* memory) const {
  ::operator delete(memory, std::align_val_t{kAlignment});
}

ThreadPool::ThreadPool(int threads) : spin_(spin_time(threads)) {
  const BlockedSignals blocked;
  try {
    workers_.reserve(static_cast<size_t>(threads - 1));
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    stop();
    throw Error("cannot start " + std::to_string(threads) + " threads (" + error.what() +
                "); give fewer with --threads");
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stopped_.store(true);
  wakes_.fetch_add(1);
  wakes_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(int64_t n, int64_t grain, Task task, void* context) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t units = (n - 1) / grain + 1;
  const int64_t large = units >= threads() * (kPartsPerThread + 1) ? threads() : 0;
  const int64_t parts = std::min<int64_t>(units, threads() * kPartsPerThread);
  const int64_t shares = parts + large;
  if (parts == 1 || workers_.empty() || inside_task) return task(context, 0, n);

  job_ = {task, context, n, grain, large, units / shares, units % shares};
  done_.store(0, std::memory_order_relaxed);
  const uint64_t number = job_number(claims_.load(std::memory_order_relaxed)) + 1;
  const auto size = static_cast<uint64_t>(parts);
  claims_.store((number << kPartBits | size) << kPartBits);
  wake_workers(parts - 1);
  const int mine = run_parts();
  wait_for(static_cast<int>(parts) - mine);
}

// Claims and runs parts until none is left. Returns how many it ran.
int ThreadPool::run_parts() noexcept {
  int count = 0;
  inside_task = true;
  uint64_t claims = claims_.load(std::memory_order_relaxed);
  while (next_part(claims) < n_parts(claims)) {
    // What it acquires is job_, written before claims_ was stored.
    if (!claims_.compare_exchange_weak(claims, claims + 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
      continue;
    }
    job_.run(next_part(claims));
    ++count;
    claims = claims_.load(std::memory_order_relaxed);
  }
  inside_task = false;
  return count;
}

void ThreadPool::work() {
  while (!stopped_.load()) {
    if (const int count = run_parts(); count > 0) {
      // Either the caller, on its way to sleep in wait_for(), sees this count, or this thread sees
      // what the caller waits for: the four operations have one order. The same holds of
      // claims_ and sleepers_ in sleep(), parallel_for() and wake_workers().
      const int done = done_.fetch_add(count) + count;
      if (awaited_.load() == done) done_.notify_one();
    }
    const uint64_t seen = claims_.load(std::memory_order_relaxed);
    const auto more = [&] { return claims_.load(std::memory_order_relaxed) != seen; };
    if (next_part(seen) == n_parts(seen) && !spin(spin_, more)) sleep(seen);
  }
}

// Until another job than that of `seen` has come, even when the others have finished it by then:
// more will follow, so it pays to spin again.
void ThreadPool::sleep(uint64_t seen) {
  const int wakes = wakes_.load();
  sleepers_.fetch_add(1);
  if (claims_.load() == seen && !stopped_.load()) wakes_.wait(wakes);
  sleepers_.fetch_sub(1);
}

void ThreadPool::wake_workers(int64_t wanted) {
  const int64_t asleep = sleepers_.load();
  if (asleep == 0) return;
  wakes_.fetch_add(1);
  if (wanted >= asleep) return wakes_.notify_all();
  for (int64_t i = 0; i < wanted; ++i) wakes_.notify_one();
}

// Until the workers have finished `parts` of this job.
void ThreadPool::wait_for(int parts) {
  if (spin(spin_, [&] { return done_.load() == parts; })) return;
  awaited_.store(parts);
  for (int done; (done = done_.load()) != parts;) done_.wait(done);
  awaited_.store(-1);
}

void* ThreadPool::scratch(size_t bytes) {
  if (bytes > scratch_size_) {
    if (bytes > static_cast<size_t>(std::numeric_limits<ptrdiff_t>::max())) throw std::bad_alloc();
    scratch_size_ = 0;
    scratch_.reset();  // first, so that both are never held at once
    scratch_.reset(::operator new(bytes, std::align_val_t{kAlignment}));
    scratch_size_ = bytes;
  }
  return scratch_.get();
}

}  // namespace runner
