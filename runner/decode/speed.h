#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "model/session.h"
#include "system/thread_pool.h"

namespace runner {

using Poll = std::function<void()>;  // called between chunks; may throw

// Seconds that a prompt of `tokens` arbitrary tokens takes, or `tokens` forwards of one token each,
// at the positions from `depth` on. The session is rewound; what is before them is run first, and not
// timed. Throws Error when depth + tokens is more than the context.
double time_prefill(Session& session, int64_t tokens, int64_t depth, const Poll& poll = nullptr);
double time_decode(Session& session, int64_t tokens, int64_t depth, const Poll& poll = nullptr);

// Reads all of `memory`, a multiple of 32 KiB, with every thread.
void read_all(ThreadPool& pool, std::span<const uint8_t> memory);

// Bytes a second that `threads` threads read from memory too large for any cache (512 MiB, for as
// long as it lasts): the median of passes over it for about `seconds`.
double read_bandwidth(int threads, double seconds);

}  // namespace runner
