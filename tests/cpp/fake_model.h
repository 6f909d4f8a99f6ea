#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/model.h"

// A model whose next token depends on every token before it, and which keeps a KV cache as real
// ones do: what was not run, or was overwritten, shows in its answers.
class FakeModel : public runner::Model {
 public:
  struct Call {
    int64_t length, start_pos;
    std::vector<int64_t> rows;
    bool operator==(const Call&) const = default;
  };

  explicit FakeModel(int64_t vocab = 50, int64_t context = 32, int64_t max_chunk = 8,
                     int64_t max_rows = 4) {
    meta_.vocab_size = vocab;
    meta_.context_length = context;
    meta_.max_chunk = max_chunk;
    meta_.max_rows = max_rows;
    cache_.assign(static_cast<size_t>(context), -1);
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

  void forward(std::span<const int64_t> tokens, int64_t start_pos, std::span<const int64_t> rows,
               std::span<float> logits) override {
    calls.push_back({std::ssize(tokens), start_pos, {rows.begin(), rows.end()}});
    require(!tokens.empty() && std::ssize(tokens) <= meta_.max_chunk, "chunk size");
    require(!rows.empty() && std::ssize(rows) <= meta_.max_rows, "number of rows");
    require(start_pos + std::ssize(tokens) <= meta_.context_length, "context");
    require(std::ssize(logits) == std::ssize(rows) * meta_.vocab_size, "logits");
    for (size_t i = 0; i < tokens.size(); ++i)
      cache_[static_cast<size_t>(start_pos) + i] = tokens[i];
    for (size_t r = 0; r < rows.size(); ++r) {
      require(rows[r] >= 0 && rows[r] < std::ssize(tokens), "row");
      const std::vector<int64_t> seen(cache_.begin(), cache_.begin() + start_pos + rows[r] + 1);
      for (int64_t token : seen) require(token >= 0, "a position that was never run");
      auto row = logits.subspan(r * static_cast<size_t>(meta_.vocab_size),
                                static_cast<size_t>(meta_.vocab_size));
      for (size_t id = 0; id < row.size(); ++id) row[id] = -static_cast<float>(id % 7);
      row[static_cast<size_t>(next(seen))] = 10;
    }
  }

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

 private:
  static void require(bool holds, const char* what) {
    if (!holds) throw std::logic_error(std::string("forward called wrongly: ") + what);
  }

  std::vector<int64_t> cache_;
};
