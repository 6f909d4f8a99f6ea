#include "system/thread_pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "system/cpu_count.h"
#include "system/error.h"
#include "tests/cpp/check.h"

using namespace runner;
using namespace std::chrono_literals;

namespace {

// parallel_for of a lambda.
template <typename Body>
void run(lowbit::Host& pool, int64_t n, int64_t grain, Body body) {
  const auto task = [](void* context, int64_t begin, int64_t end) {
    (*static_cast<Body*>(context))(begin, end);
  };
  pool.parallel_for(n, grain, task, &body);
}

// Where the pool's answer is wrong: a part of the wrong size, or an index not met once.
std::string fault(ThreadPool& pool, int64_t n, int64_t grain) {
  std::vector<int> met(static_cast<size_t>(n));  // not atomic: the parts must not overlap
  std::atomic<int> parts = 0, odd = 0;
  run(pool, n, grain, [&](int64_t begin, int64_t end) {
    ++parts;
    const bool inside = 0 <= begin && begin < end && end <= n;
    if (!inside || begin % grain != 0 || (end % grain != 0 && end != n)) ++odd;
    for (int64_t i = begin; inside && i < end; ++i) ++met[static_cast<size_t>(i)];
  });
  if (odd != 0) return "parts that do not keep to the grain";
  if (parts > 3 * pool.threads()) return "too many parts";
  for (int count : met) {
    if (count != 1) return "an index met " + std::to_string(count) + " times";
  }
  return "";
}

}  // namespace

TEST(each_index_is_met_once) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    CHECK_EQ(pool.threads(), threads);
    for (int64_t n : {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 64, 100, 1000, 4099}) {
      for (int64_t grain : {1, 2, 3, 4, 7, 16, 64, 1000, 5000}) {
        const std::string what = fault(pool, n, grain);
        if (!what.empty()) {
          CHECK_EQ(what, std::to_string(n) + " by " + std::to_string(grain) + " on " +
                             std::to_string(threads));
        }
      }
    }
  }
}

TEST(each_thread_has_a_large_part_and_two_of_half_its_size) {
  ThreadPool pool(2);
  std::vector<int64_t> lengths(90);  // by where the part begins
  run(pool, 90, 10,
      [&](int64_t begin, int64_t end) { lengths[static_cast<size_t>(begin)] = end - begin; });
  std::erase(lengths, 0);
  CHECK_EQ(lengths, (std::vector<int64_t>{30, 20, 10, 10, 10, 10}));
}

TEST(one_part_runs_in_the_calling_thread) {
  ThreadPool pool(3);
  std::thread::id where;
  run(pool, 100, 100, [&](int64_t, int64_t) { where = std::this_thread::get_id(); });
  CHECK(where == std::this_thread::get_id());
}

TEST(many_small_jobs_follow_each_other) {
  for (int threads : {2, 5}) {
    ThreadPool pool(threads);
    std::vector<int64_t> counts(8);
    constexpr int64_t kJobs = 100'000;
    for (int64_t job = 0; job < kJobs; ++job) {
      // Of another size each, so that what belongs to the job before would show.
      run(pool, 1 + job % 8, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++counts[static_cast<size_t>(i)];
      });
    }
    for (int64_t i = 0; i < 8; ++i) CHECK_EQ(counts[static_cast<size_t>(i)], kJobs / 8 * (8 - i));
  }
}

TEST(a_job_sees_what_the_one_before_wrote) {
  ThreadPool pool(3);
  std::vector<int> a(1000), b(1000);
  std::iota(a.begin(), a.end(), 0);
  for (int round = 0; round < 200; ++round) {
    run(pool, 1000, 8, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        b[i] = a[999 - i] + 1;
      }
    });
    std::swap(a, b);
  }
  for (int i = 0; i < 1000; ++i) CHECK_EQ(a[static_cast<size_t>(i)], i + 200);
}

TEST(a_task_may_call_the_pool) {
  ThreadPool pool(3);
  std::vector<int> met(1000);
  std::atomic<int> elsewhere = 0;
  run(pool, 10, 1, [&](int64_t begin, int64_t end) {
    const auto here = std::this_thread::get_id();
    run(pool, (end - begin) * 100, 7, [&](int64_t from, int64_t to) {
      if (std::this_thread::get_id() != here) ++elsewhere;
      for (int64_t i = from; i < to; ++i) ++met[static_cast<size_t>(begin * 100 + i)];
    });
  });
  CHECK_EQ(elsewhere.load(), 0);
  for (int count : met) CHECK_EQ(count, 1);
  CHECK_EQ(fault(pool, 1000, 7), "");  // and in parallel again
}

TEST(workers_take_part) {
  ThreadPool pool(3);
  for (auto pause : {0ms, 5ms}) {  // while they spin, and when they sleep
    std::this_thread::sleep_for(pause);
    std::atomic<int> arrived = 0;
    run(pool, 3, 1, [&](int64_t, int64_t) {  // ends only when three threads are inside
      ++arrived;
      while (arrived < 3) std::this_thread::yield();
    });
    CHECK_EQ(arrived.load(), 3);
  }
}

TEST(the_caller_waits_for_a_slow_worker) {
  ThreadPool pool(2);
  const auto caller = std::this_thread::get_id();
  for (auto delay : {0us, 10us, 100us, 20000us}) {
    for (int round = 0; round < 20; ++round) {
      std::atomic<int> arrived = 0, finished = 0;
      run(pool, 2, 1, [&](int64_t, int64_t) {
        ++arrived;
        while (arrived < 2) std::this_thread::yield();
        if (std::this_thread::get_id() != caller) std::this_thread::sleep_for(delay);
        ++finished;
      });
      CHECK_EQ(finished.load(), 2);
    }
  }
}

TEST(a_slow_thread_leaves_the_parts_to_the_others) {
  ThreadPool pool(2);
  std::atomic<bool> slow = false;
  std::atomic<int> rest = 0;
  run(pool, 8, 1, [&](int64_t, int64_t) {
    if (!slow.exchange(true)) {
      while (rest < 5) std::this_thread::yield();
    } else {
      ++rest;
    }
  });
  CHECK_EQ(rest.load(), 5);
}

TEST(jobs_between_pauses) {
  ThreadPool pool(3);
  // About the time that workers spin: they are met spinning, going to sleep, asleep and waking.
  for (int round = 0; round < 2000; ++round) {
    CHECK_EQ(fault(pool, 64, 1), "");
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(round % 100);
    while (std::chrono::steady_clock::now() < end) {
    }
  }
}

TEST(a_pool_ends_at_any_time) {
  for (int threads : {1, 2, 5}) {
    for (int round = 0; round < 50; ++round) ThreadPool unused(threads);
    for (int round = 0; round < 50; ++round) {
      ThreadPool pool(threads);
      CHECK_EQ(fault(pool, 64, 1), "");
    }
    ThreadPool pool(threads);
    CHECK_EQ(fault(pool, 64, 1), "");
    std::this_thread::sleep_for(5ms);  // asleep
  }
}

TEST(signals_are_the_main_threads) {
  ThreadPool pool(2);
  const auto caller = std::this_thread::get_id();
  std::atomic<int> arrived = 0;
  sigset_t worker_blocks;
  run(pool, 2, 1, [&](int64_t, int64_t) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
    if (std::this_thread::get_id() != caller) {
      pthread_sigmask(SIG_BLOCK, nullptr, &worker_blocks);
    }
  });
  sigset_t main_blocks;
  pthread_sigmask(SIG_BLOCK, nullptr, &main_blocks);
  CHECK(sigismember(&worker_blocks, SIGINT) == 1 && sigismember(&main_blocks, SIGINT) == 0);
  CHECK(sigismember(&worker_blocks, SIGSEGV) == 0);
}

TEST(as_many_threads_as_are_allowed) {
  ThreadPool pool(kMaxThreads);
  CHECK_EQ(pool.threads(), kMaxThreads);
  CHECK_EQ(fault(pool, 100'000, 1), "");
}

TEST(scratch_is_aligned_and_grows) {
  ThreadPool pool(1);
  const auto aligned = [](void* memory) {
    return memory && reinterpret_cast<uintptr_t>(memory) % 64 == 0;
  };
  void* memory = pool.scratch(100);
  CHECK(aligned(memory));
  std::memset(memory, 1, 100);
  CHECK(pool.scratch(50) == memory);
  CHECK(pool.scratch(0) == memory);
  void* larger = pool.scratch(1 << 20);
  CHECK(aligned(larger));
  std::memset(larger, 2, 1 << 20);
  CHECK_THROWS(std::bad_alloc, pool.scratch(std::numeric_limits<size_t>::max()), "");
  CHECK(pool.scratch(1 << 20) == larger);
}

CHECK_MAIN()
