#include "decode/speed.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "kernels/isa.h"
#include "system/error.h"

namespace runner {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Runs tokens of no meaning from..to in chunks.
void walk(Session& session, int64_t from, int64_t to, int64_t chunk, const Poll& poll) {
  const int64_t vocab_size = session.model().metadata().vocab_size;
  std::vector<int64_t> tokens;
  std::vector<int32_t> said;
  std::vector<float> room;
  while (from < to) {
    if (poll) poll();
    tokens.resize(static_cast<size_t>(std::min(chunk, to - from)));
    for (int64_t& token : tokens) token = from++ * 7919 % vocab_size;
    const int64_t last = std::ssize(tokens) - 1, segment[] = {session.id(), std::ssize(tokens)};
    session.model().run({tokens, segment, {&last, 1}}, session.state(), room);
    said.assign(tokens.begin(), tokens.end());
    session.note(said, {});
  }
}

double time_run(Session& session, int64_t tokens, int64_t depth, int64_t chunk, const Poll& poll) {
  if (tokens < 1 || depth < 0 || depth > session.context_length() - tokens) {
    throw Error("cannot time " + std::to_string(tokens) + " tokens at a depth of " +
                std::to_string(depth) + ": the context holds " +
                std::to_string(session.context_length()) +
                "; ask for fewer or " + session.longer_context());
  }
  session.rewind(0);
  walk(session, 0, depth, session.model().metadata().max_chunk, poll);
  const auto start = Clock::now();
  walk(session, depth, depth + tokens, chunk, poll);
  return seconds_since(start);
}

}  // namespace

double time_prefill(Session& session, int64_t tokens, int64_t depth, const Poll& poll) {
  return time_run(session, tokens, depth, session.model().metadata().max_chunk, poll);
}

double time_decode(Session& session, int64_t tokens, int64_t depth, const Poll& poll) {
  return time_run(session, tokens, depth, 1, poll);
}

void read_all(ThreadPool& pool, std::span<const uint8_t> memory) {
  constexpr int64_t kParts = 64;
  const auto read = [&](int64_t begin, int64_t end) {
    const int64_t part = std::ssize(memory) / kParts;
    volatile int32_t keep =
        lowbit::isa().floats->read_peak(memory.data() + begin * part, (end - begin) * part);
    (void)keep;
  };
  pool.parallel_for(
      kParts, 1,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<decltype(read)*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&read)));
}

double read_bandwidth(int threads, double seconds) {
  ThreadPool pool(threads);
  const std::vector<uint8_t> memory(size_t{512} << 20, 1);
  read_all(pool, memory);
  std::vector<double> times;
  const auto start = Clock::now();
  do {
    const auto before = Clock::now();
    read_all(pool, memory);
    times.push_back(seconds_since(before));
  } while (times.size() < 3 || seconds_since(start) < seconds);
  const auto middle = times.begin() + std::ssize(times) / 2;
  std::nth_element(times.begin(), middle, times.end());
  return static_cast<double>(memory.size()) / *middle;
}

}  // namespace runner
