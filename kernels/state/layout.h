#pragma once

// What a model remembers between forwards, and how much memory that takes.

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <vector>

#include "kernels/lowbit.h"

namespace lowbit {

// Says in one line what cannot be done with a state, and what can.
class StateError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline constexpr int64_t kNoRope = -1;

// The attention of one layer.
struct LayerLayout {
  int64_t kv_heads, head_dim;
  int64_t rope;  // number in StateLayout::ropes, or kNoRope
};

// A rotary embedding: `frequencies` in radians a position, and what cosines and sines are multiplied
// by. A state of a longer context than `short_context` has `long_frequencies` instead, as many.
// Queries at position p are multiplied by query_factors[p / query_span], where there are any.
struct Rope {
  std::vector<float> frequencies;
  float factor = 1;
  std::optional<int64_t> short_context = {};
  std::vector<float> long_frequencies = {};
  std::vector<float> query_factors = {};
  int64_t query_span = 1;

  bool is_long(int64_t context_length) const {
    return short_context.has_value() && context_length > *short_context;
  }
  const std::vector<float>& of_context(int64_t context_length) const {
    return is_long(context_length) ? long_frequencies : frequencies;
  }
};

// A model's layers in order; none where the caches lie in the graph itself.
struct StateLayout {
  std::vector<LayerLayout> layers;
  std::vector<Rope> ropes;
};

struct StateOptions {
  int64_t context_length;  // most positions of a session
  CacheType cache_type;
  int64_t sessions;  // most at a time
};

inline constexpr int64_t kMostContext = int64_t{1} << 20;
inline constexpr int64_t kMostSessions = 1024;

// Throws StateError for a layout or options that no state can have.
void check_state(const StateLayout& layout, const StateOptions& options);

// Bytes of keys and values of one block of kBlock positions in all layers.
int64_t block_bytes(const StateLayout& layout, CacheType type);

// Blocks that `positions` of one session take.
int64_t blocks_of(int64_t positions);

// Blocks of all sessions with a full context.
int64_t block_count(const StateOptions& options);

// Bytes that a state takes when all its sessions are full: caches and rotary tables.
int64_t state_bytes(const StateLayout& layout, const StateOptions& options);

}  // namespace lowbit
