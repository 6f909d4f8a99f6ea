#include "kernels/state/layout.h"

#include <string>

namespace lowbit {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 46;  // what a process can address, less half

void check_range(const char* what, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  throw StateError(std::string(what) + " is " + std::to_string(value) + "; it is from " +
                   std::to_string(least) + " to " + std::to_string(most));
}

void check_query_factors(const Rope& rope, int64_t context_length) {
  if (rope.query_factors.empty()) return;
  check_range("the number of positions that share a factor of queries", rope.query_span, 1, kMostContext);
  const auto factors = static_cast<int64_t>(rope.query_factors.size());
  if ((context_length - 1) / rope.query_span < factors) return;
  throw StateError(std::to_string(factors) + " factors of queries, each of " +
                   std::to_string(rope.query_span) + " positions, are fewer than a context of " +
                   std::to_string(context_length) + " needs; choose a smaller context");
}

}  // namespace

void check_state(const StateLayout& layout, const StateOptions& options) {
  check_range("the context length", options.context_length, 1, kMostContext);
  check_range("the number of sessions", options.sessions, 1, kMostSessions);
  const auto ropes = static_cast<int64_t>(layout.ropes.size());
  double bytes = 0;
  for (const LayerLayout& layer : layout.layers) {
    check_range("a layer's head width", layer.head_dim, 1, kMaxHeadDim);
    check_range("a layer's number of key/value heads", layer.kv_heads, 1, 1 << 16);
    check_range("the number of a layer's rotary embedding", layer.rope, kNoRope, ropes - 1);
    const auto pairs = layer.rope == kNoRope
                           ? size_t{0}
                           : layout.ropes[static_cast<size_t>(layer.rope)].frequencies.size();
    check_range("a layer's rotary width", 2 * static_cast<int64_t>(pairs), 0, layer.head_dim);
    bytes += static_cast<double>(layer.kv_heads) *
             static_cast<double>(cache_block_bytes(options.cache_type, layer.head_dim));
  }
  for (const Rope& rope : layout.ropes) {
    check_query_factors(rope, options.context_length);
    if (!rope.short_context || rope.long_frequencies.size() == rope.frequencies.size()) continue;
    throw StateError("a rotary embedding has " + std::to_string(rope.frequencies.size()) +
                     " frequencies for short contexts and " +
                     std::to_string(rope.long_frequencies.size()) + " for long ones");
  }
  if (2 * bytes * static_cast<double>(block_count(options)) > static_cast<double>(kMostBytes)) {
    throw StateError("the caches of " + std::to_string(options.sessions) + " x " +
                     std::to_string(options.context_length) +
                     " positions are larger than any memory; choose a smaller context");
  }
}

int64_t block_bytes(const StateLayout& layout, CacheType type) {
  int64_t bytes = 0;
  for (const LayerLayout& layer : layout.layers) {
    bytes += 2 * layer.kv_heads * cache_block_bytes(type, layer.head_dim);
  }
  return bytes;
}

int64_t blocks_of(int64_t positions) { return (positions + kBlock - 1) / kBlock; }

int64_t block_count(const StateOptions& options) {
  return options.sessions * blocks_of(options.context_length);
}

int64_t state_bytes(const StateLayout& layout, const StateOptions& options) {
  int64_t tables = 0;
  for (const Rope& rope : layout.ropes) {
    tables += 2 * static_cast<int64_t>(rope.frequencies.size() * sizeof(float)) * options.context_length;
  }
  return block_bytes(layout, options.cache_type) * block_count(options) + tables;
}

}  // namespace lowbit
