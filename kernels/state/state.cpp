#include "kernels/state/state.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace lowbit {
namespace {

constexpr const char* kRunning = "a forward of this state is running; wait until it has ended";

const StateLayout& checked(const StateLayout& layout, const StateOptions& options) {
  check_state(layout, options);
  return layout;
}

size_t cache_bytes(const StateLayout& layout, const StateOptions& options) {
  return static_cast<size_t>(block_bytes(layout, options.cache_type) * block_count(options));
}

}  // namespace

State::State(StateLayout layout, const StateOptions& options)
    : layout_(std::move(layout)),
      options_(options),
      memory_(cache_bytes(checked(layout_, options), options)) {
  const int64_t blocks = block_count(options);
  unsigned char* at = memory_.bytes().data();
  for (const LayerLayout& layer : layout_.layers) {
    const int64_t bytes = cache_block_bytes(options.cache_type, layer.head_dim);
    for (int i = 0; i < 2; ++i) {
      regions_.push_back({at, layer.kv_heads, bytes});
      at += layer.kv_heads * blocks * bytes;
    }
  }
  for (const Rope& rope : layout_.ropes) {
    tables_.emplace_back(rope.of_context(options.context_length), rope.factor, options.context_length);
  }
  users_.resize(static_cast<size_t>(blocks));
  for (int64_t block = blocks; block-- > 0;) free_.push_back(static_cast<int32_t>(block));
}

const State::Session& State::find(SessionId id) const {
  for (const Session& session : sessions_) {
    if (session.id == id) return session;
  }
  throw StateError("there is no session " + std::to_string(id) +
                   (id > 0 && id <= last_id_ ? ": it was dropped" : ""));
}

void State::check_idle() const {
  if (running_) throw StateError(kRunning);
}

void State::check_room() const {
  check_idle();
  if (open_sessions() < options_.sessions) return;
  throw StateError("all " + std::to_string(options_.sessions) +
                   " sessions are in use; drop one, or start with more");
}

void State::check_own_caches(const char* what) const {
  if (!layout_.layers.empty()) return;
  throw StateError(std::string("this model's cache lies in its graph, for one session: it cannot be ") +
                   what);
}

SessionId State::open() {
  check_room();
  sessions_.push_back({++last_id_, 0, {}});
  return last_id_;
}

SessionId State::fork(SessionId session) {
  const Session& from = find(session);
  check_own_caches("forked");
  check_room();
  Session copy{++last_id_, from.position, from.blocks};
  for (const int32_t block : copy.blocks) ++users_[static_cast<size_t>(block)];
  sessions_.push_back(std::move(copy));
  return last_id_;
}

void State::drop(SessionId session) {
  check_idle();
  Session& dropped = find(session);
  for (const int32_t block : dropped.blocks) release(block);
  std::swap(dropped, sessions_.back());
  sessions_.pop_back();
}

void State::rewind(SessionId session, int64_t position) {
  check_idle();
  Session& s = find(session);
  if (position < 0 || position > s.position) {
    throw StateError("a session at position " + std::to_string(s.position) +
                     " cannot be rewound to " + std::to_string(position));
  }
  s.position = position;
  release_beyond_position(s);
}

void State::release_beyond_position(Session& session) {
  const auto left = static_cast<size_t>(blocks_of(session.position));
  for (; session.blocks.size() > left; session.blocks.pop_back()) release(session.blocks.back());
}

int64_t State::position(SessionId session) const { return find(session).position; }

// There is always one: no session holds more than its share of them.
int32_t State::take_block() {
  const int32_t block = free_.back();
  free_.pop_back();
  users_[static_cast<size_t>(block)] = 1;
  return block;
}

void State::release(int32_t block) {
  if (--users_[static_cast<size_t>(block)] == 0) free_.push_back(block);
}

std::span<unsigned char> State::place(const Region& region, int64_t head, int32_t block) const {
  const auto blocks = static_cast<int64_t>(users_.size());
  return {region.data + (head * blocks + block) * region.block_bytes,
          static_cast<size_t>(region.block_bytes)};
}

template <class F>
void State::each_place(int32_t block, F f) const {
  for (const Region& region : regions_) {
    for (int64_t head = 0; head < region.heads; ++head) f(place(region, head, block));
  }
}

// The blocks of positions [from, to) are the session's alone.
void State::make_writable(Session& session, int64_t from, int64_t to) {
  if (layout_.layers.empty()) return;
  const auto partly = static_cast<size_t>(from / kBlock);
  if (partly < session.blocks.size() && users_[static_cast<size_t>(session.blocks[partly])] > 1) {
    const int32_t shared = session.blocks[partly], own = take_block();
    for (const Region& region : regions_) {
      for (int64_t head = 0; head < region.heads; ++head) {
        std::ranges::copy(place(region, head, shared), place(region, head, own).begin());
      }
    }
    release(shared);
    session.blocks[partly] = own;
  }
  while (static_cast<int64_t>(session.blocks.size()) < blocks_of(to)) {
    session.blocks.push_back(take_block());
  }
}

void State::check_segments(std::span<const int64_t> segments) const {
  if (segments.empty() || segments.size() % 2 != 0) {
    throw StateError("a forward has one segment or more, each a session and its number of tokens");
  }
  for (size_t i = 0; i < segments.size(); i += 2) {
    const int64_t id = segments[i], tokens = segments[i + 1];
    const int64_t position = find(id).position, room = options_.context_length - position;
    if (tokens < 1 || tokens > room) {
      throw StateError(std::to_string(tokens) + " tokens at position " + std::to_string(position) +
                       " are not within the context of " + std::to_string(options_.context_length));
    }
    for (size_t j = 0; j < i; j += 2) {
      if (segments[j] != id) continue;
      throw StateError("session " + std::to_string(id) +
                       " is twice in a forward; join its tokens in one segment");
    }
  }
}

void State::begin(std::span<const int64_t> segments) {
  if (running_.exchange(true)) throw StateError(kRunning);
  asked_.clear();
  try {
    check_segments(segments);
    asked_.assign(segments.begin(), segments.end());
    int64_t end = 0;
    segments_.clear();
    for (size_t i = 0; i < segments.size(); i += 2) {
      Session& session = find(segments[i]);
      const int64_t after = session.position + segments[i + 1];
      make_writable(session, session.position, after);
      segments_.push_back({segments[i + 1], session.position, session.blocks.data()});
      end = std::max(end, after);
    }
    for (RotaryTable& table : tables_) table.fill(end);
    next_layer_ = 0;
  } catch (...) {
    abandon();
    throw;
  }
}

void State::end() {
  if (!running_) throw StateError("no forward is running");
  const auto layers = static_cast<int64_t>(layout_.layers.size());
  if (next_layer_ != layers) {
    abandon();
    throw StateError("the forward ran " + std::to_string(next_layer_) + " of " +
                     std::to_string(layers) + " layers");
  }
  for (size_t i = 0; i < asked_.size(); i += 2) find(asked_[i]).position += asked_[i + 1];
  running_ = false;
}

void State::abandon() {
  for (size_t i = 0; i < asked_.size(); i += 2) release_beyond_position(find(asked_[i]));
  running_ = false;
}

LayerState State::enter(int64_t layer, std::span<const int64_t> segments) {
  if (!running_) throw StateError("no forward was begun on this state");
  if (!std::ranges::equal(segments, asked_)) {
    throw StateError("the segments are not those that the forward was begun with");
  }
  if (layer != next_layer_ || layer >= static_cast<int64_t>(layout_.layers.size())) {
    throw StateError("layer " + std::to_string(layer) + " came where layer " +
                     std::to_string(next_layer_) + " of " + std::to_string(layout_.layers.size()) +
                     " was next");
  }
  ++next_layer_;
  const auto i = static_cast<size_t>(layer);
  const LayerLayout& layout = layout_.layers[i];
  LayerState found{.layout = layout,
                   .cache = {options_.cache_type, regions_[2 * i].data, regions_[2 * i + 1].data,
                             static_cast<int64_t>(users_.size())},
                   .segments = segments_,
                   .cos = nullptr,
                   .sin = nullptr,
                   .rotary_dim = 0,
                   .query_factors = {}};
  if (layout.rope != kNoRope) {
    const RotaryTable& table = tables_[static_cast<size_t>(layout.rope)];
    found.cos = table.cos();
    found.sin = table.sin();
    found.rotary_dim = 2 * table.pairs();
    const Rope& rope = layout_.ropes[static_cast<size_t>(layout.rope)];
    if (!rope.query_factors.empty()) found.query_factors = {rope.query_factors.data(), rope.query_span};
  }
  return found;
}

std::vector<uint8_t> State::save(SessionId session) const {
  check_idle();
  check_own_caches("saved");
  const Session& s = find(session);
  std::vector<uint8_t> bytes;
  bytes.reserve(s.blocks.size() * static_cast<size_t>(block_bytes(layout_, options_.cache_type)));
  for (const int32_t block : s.blocks) {
    each_place(block, [&](auto place) { bytes.insert(bytes.end(), place.begin(), place.end()); });
  }
  clear_behind(s.position, bytes);
  return bytes;
}

// The last block may hold what another session left there, which is not to be given away.
void State::clear_behind(int64_t position, std::vector<uint8_t>& bytes) const {
  if (position % kBlock == 0) return;
  const CacheType type = options_.cache_type;
  uint8_t* place = bytes.data() + std::ssize(bytes) - block_bytes(layout_, type);
  for (const LayerLayout& layer : layout_.layers) {
    for (const bool keys : {true, false}) {
      for (int64_t head = 0; head < layer.kv_heads; ++head) {
        clear_positions(type, keys, layer.head_dim, position % kBlock, place);
        place += cache_block_bytes(type, layer.head_dim);
      }
    }
  }
}

SessionId State::restore(std::span<const uint8_t> bytes, int64_t positions) {
  check_own_caches("restored");
  if (positions < 0 || positions > options_.context_length) {
    throw StateError("a session of " + std::to_string(positions) +
                     " positions does not fit the context of " +
                     std::to_string(options_.context_length) + "; start with a larger one");
  }
  const int64_t wanted = blocks_of(positions) * block_bytes(layout_, options_.cache_type);
  if (static_cast<int64_t>(bytes.size()) != wanted) {
    throw StateError("the caches of " + std::to_string(positions) + " positions have " +
                     std::to_string(wanted) + " bytes, not " + std::to_string(bytes.size()));
  }
  const SessionId id = open();
  Session& session = find(id);
  make_writable(session, 0, positions);
  for (const int32_t block : session.blocks) {
    each_place(block, [&](auto place) {
      std::memcpy(place.data(), bytes.data(), place.size());
      bytes = bytes.subspan(place.size());
    });
  }
  session.position = positions;
  return id;
}

OwnedState::OwnedState(Library library, StateLayout layout, const StateOptions& options)
    : state_(std::make_shared<State>(std::move(layout), options)),
      handle_(add_state(library, state_)) {}

OwnedState::~OwnedState() { remove_state(handle_); }

}  // namespace lowbit
