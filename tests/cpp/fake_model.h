#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/session.h"

// A model whose next token depends on every token before it, and which keeps them in its state's cache, as
// real ones do: what was not run, or was overwritten, shows in its answers. It has one layer, in which a
// token's number, plus one, stands for its key.
class FakeModel : public runner::Model {
 public:
  struct Call {
    int64_t length, start_pos;
    std::vector<int64_t> rows;
    bool operator==(const Call&) const = default;
  };

  explicit FakeModel(int64_t vocab = 50, int64_t context = 32, int64_t max_chunk = 8,
                     int64_t max_rows = 4) {
    meta_.model_name = "fake";
    meta_.vocab_size = vocab;
    meta_.context_length = meta_.longest_context = context;
    meta_.max_chunk = max_chunk;
    meta_.max_rows = max_rows;
    meta_.max_segments = 3;
    meta_.lowbit = true;
    meta_.state.layers = {{1, 1, lowbit::kNoRope}};
    meta_.cache_dtype = "float32";
    meta_.model_digest = "fake weights";
    meta_.raw["state"] = "fake layers";
  }

  // A session in a state of its own.
  runner::Session session(int64_t prefill_chunk = 0, int64_t sessions = 1) {
    return {*this, make_state({.sessions = sessions}), prefill_chunk};
  }

  // The token that follows `tokens` under greedy sampling.
  std::function<int64_t(const std::vector<int64_t>& tokens)> next = [this](const auto& tokens) {
    uint64_t hash = 7;
    for (int64_t token : tokens) hash = hash * 31 + static_cast<uint64_t>(token) + 1;
    return static_cast<int64_t>(hash % static_cast<uint64_t>(meta_.vocab_size));
  };

  std::vector<Call> calls;

  const runner::Metadata& metadata() const override { return meta_; }
  std::string_view tokenizer_table() const override { return {}; }
  int threads() const override { return 1; }
  std::string isa() const override { return "fake"; }

  // What greedy decoding must give after `prompt`.
  std::vector<int32_t> expected(const std::vector<int32_t>& prompt, size_t count) const {
    std::vector<int64_t> tokens(prompt.begin(), prompt.end());
    std::vector<int32_t> generated;
    while (generated.size() < count) {
      tokens.push_back(next(tokens));
      generated.push_back(static_cast<int32_t>(tokens.back()));
    }
    return generated;
  }

  runner::Metadata meta_;

 protected:
  lowbit::Library library() const override { return lowbit::Library::executorch; }

  std::span<const float> run_graph(const runner::Batch& batch, const runner::OwnedState& state,
                                   std::vector<float>& room) override {
    const auto vocab = static_cast<size_t>(meta_.vocab_size);
    require(!batch.tokens.empty() && std::ssize(batch.tokens) <= meta_.max_chunk, "chunk size");
    require(!batch.rows.empty() && std::ssize(batch.rows) <= meta_.max_rows, "number of rows");
    const auto layer = lowbit::find_state(state.handle())->enter(0, batch.segments);
    const std::vector<std::vector<int64_t>> seen = read(batch.tokens, layer, batch.rows);
    room.resize(batch.rows.size() * vocab);
    for (size_t r = 0; r < batch.rows.size(); ++r) {
      const int64_t asked = batch.rows[r];
      require(asked >= 0 && asked < std::ssize(batch.tokens), "row");
      const auto row = std::span(room).subspan(r * vocab, vocab);
      for (size_t id = 0; id < vocab; ++id) row[id] = -static_cast<float>(id % 7);
      row[static_cast<size_t>(next(seen[static_cast<size_t>(asked)]))] = 10;
    }
    return room;
  }

 private:
  static void require(bool holds, const char* what) {
    if (!holds) throw std::logic_error(std::string("forward called wrongly: ") + what);
  }

  // Writes the tokens to the cache; returns what each sees, itself included.
  std::vector<std::vector<int64_t>> read(std::span<const int64_t> tokens,
                                         const lowbit::LayerState& layer,
                                         std::span<const int64_t> rows) {
    std::vector<std::vector<int64_t>> seen;
    for (const lowbit::Segment& segment : layer.segments) {
      calls.push_back({segment.tokens, segment.start, {rows.begin(), rows.end()}});
      for (int64_t i = 0; i < segment.tokens; ++i) {
        *place(layer, segment, segment.start + i) = static_cast<float>(tokens[seen.size()] + 1);
        auto& history = seen.emplace_back();
        for (int64_t p = 0; p <= segment.start + i; ++p) {
          const float there = *place(layer, segment, p);
          require(there > 0, "a position that was never run");
          history.push_back(static_cast<int64_t>(there) - 1);
        }
      }
    }
    return seen;
  }

  static float* place(const lowbit::LayerState& layer, const lowbit::Segment& segment, int64_t p) {
    const int64_t bytes = cache_block_bytes(layer.cache.type, layer.layout.head_dim);
    auto* keys = static_cast<uint8_t*>(layer.cache.keys);
    return reinterpret_cast<float*>(keys + segment.blocks[p / lowbit::kBlock] * bytes) +
           p % lowbit::kBlock;
  }
};
