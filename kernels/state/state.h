#pragma once

// What a model remembers between forwards: the keys and values of several sessions, in blocks of 16
// positions that sessions share until one of them writes.

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/state/handles.h"
#include "kernels/state/layout.h"
#include "kernels/state/rotary_table.h"
#include "kernels/state/zero_memory.h"

namespace lowbit {

// A number that is never given twice.
using SessionId = int64_t;

// What an operator of one layer works with in a forward.
struct LayerState {
  LayerLayout layout;
  Cache cache;
  std::span<const Segment> segments;
  const float *cos, *sin;  // [context, rotary_dim / 2]; null where nothing is rotated
  int64_t rotary_dim;
  QueryFactors query_factors;
};

// The caches of up to StateOptions::sessions sessions over one model. A graph names it by its handle.
//
// Functions throw StateError for a session that there is not, and those that change or copy one while a
// forward runs. One thread at a time may call them; a second forward is refused from any.
class State {
 public:
  State(StateLayout layout, const StateOptions& options);
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  const StateLayout& layout() const { return layout_; }
  const StateOptions& options() const { return options_; }

  // A session without tokens. Throws StateError when all are in use.
  SessionId open();
  // One of the same tokens. Blocks are shared until one of both writes to them.
  SessionId fork(SessionId session);
  void drop(SessionId session);
  // Forgets the positions from `position` on.
  void rewind(SessionId session, int64_t position);
  int64_t position(SessionId session) const;
  // The number of sessions that are open.
  int64_t open_sessions() const { return static_cast<int64_t>(sessions_.size()); }

  // Prepares a forward of the tokens of `segments`, rows (session, number of tokens), at each session's
  // position; makes room for them. Until end() or abandon() nothing else may be asked for.
  // Throws StateError, and nothing has changed, where a session occurs twice or its context ends.
  void begin(std::span<const int64_t> segments);
  // Ends the forward: the sessions are at their new positions. Throws StateError, and abandons it, when
  // not every layer has run.
  void end();
  // Ends a forward that failed: the sessions are where they were.
  void abandon();

  // For the operator of layer `layer`; layers run in order, each once a forward. Throws StateError when
  // `segments` are not those of begin(), or it is another layer's turn.
  LayerState enter(int64_t layer, std::span<const int64_t> segments);

  // What the caches hold of a session's positions, and a session of such bytes.
  // restore() throws StateError when they are not as many as `positions` take.
  std::vector<uint8_t> save(SessionId session) const;
  SessionId restore(std::span<const uint8_t> bytes, int64_t positions);

 private:
  struct Session {
    SessionId id;
    int64_t position = 0;
    std::vector<int32_t> blocks;
  };
  struct Region {  // of one layer's keys or values
    unsigned char* data;
    int64_t heads, block_bytes;
  };

  const Session& find(SessionId id) const;
  Session& find(SessionId id) { return const_cast<Session&>(std::as_const(*this).find(id)); }
  void check_idle() const;
  void check_room() const;
  void check_own_caches(const char* what) const;
  void check_segments(std::span<const int64_t> segments) const;
  void clear_behind(int64_t position, std::vector<uint8_t>& bytes) const;
  int32_t take_block();
  void release(int32_t block);
  void release_beyond_position(Session& session);
  void make_writable(Session& session, int64_t from, int64_t to);
  // The bytes of `block` in one head of a layer's keys or values.
  std::span<unsigned char> place(const Region& region, int64_t head, int32_t block) const;
  // Calls f(bytes) for the place of `block` in each head of each layer's keys and values.
  template <class F>
  void each_place(int32_t block, F f) const;

  StateLayout layout_;
  StateOptions options_;
  ZeroMemory memory_;
  std::vector<Region> regions_;  // keys and values of layer 0, of layer 1, ...
  std::vector<RotaryTable> tables_;
  std::vector<int32_t> users_;  // of each block
  std::vector<int32_t> free_;   // the next one last
  std::vector<Session> sessions_;
  SessionId last_id_ = 0;

  std::atomic<bool> running_ = false;
  int64_t next_layer_ = 0;
  std::vector<int64_t> asked_;     // the segments of the forward
  std::vector<Segment> segments_;  // the same, for the operators
};

// A state and its handle, which is known as long as it lives.
class OwnedState {
 public:
  OwnedState(Library library, StateLayout layout, const StateOptions& options);
  ~OwnedState();
  OwnedState(const OwnedState&) = delete;
  OwnedState& operator=(const OwnedState&) = delete;

  State& operator*() const { return *state_; }
  State* operator->() const { return state_.get(); }
  int64_t handle() const { return handle_; }

 private:
  std::shared_ptr<State> state_;
  int64_t handle_;
};

}  // namespace lowbit
