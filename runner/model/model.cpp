#include "model/model.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "model/cache_types.h"
#include "system/available_memory.h"
#include "system/error.h"

namespace runner {
namespace {

constexpr const char* kInGraph = " runs on stock operators, which keep the cache in the graph: ";

std::string gigabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GB", static_cast<double>(bytes) / 1e9);
  return text;
}

void check_stock(const Metadata& m, const StateChoice& choice) {
  const std::string is = m.model_name + kInGraph;
  if (choice.sessions != 1) {
    throw Error(is + "one session, not " + std::to_string(choice.sessions) +
                "; export it with --delegate lowbit for several");
  }
  if (choice.context_length.value_or(m.context_length) != m.context_length) {
    throw Error(is + "its context is of " + std::to_string(m.context_length) + " positions, not " +
                std::to_string(*choice.context_length) +
                "; leave --max-seq-length out, or export with it");
  }
  if (choice.cache_type) {
    throw Error(is + "its type cannot be chosen; leave --cache-dtype out, or export with --delegate lowbit");
  }
}

// The longest context, in whole blocks, whose caches and tables take at most `bytes`; 0: none.
int64_t context_that_fits(const Metadata& m, lowbit::StateOptions options, int64_t bytes) {
  int64_t fits = 0, beyond = options.context_length / lowbit::kBlock + 1;  // in blocks
  while (beyond - fits > 1) {
    const int64_t middle = fits + (beyond - fits) / 2;
    options.context_length = middle * lowbit::kBlock;
    (state_bytes(m.state, options) <= bytes ? fits : beyond) = middle;
  }
  return fits * lowbit::kBlock;
}

void check_memory(const Metadata& m, const lowbit::StateOptions& options) {
  const int64_t bytes = state_bytes(m.state, options);
  const auto available = available_memory();
  if (!available || bytes <= *available) return;
  const std::string sessions =
      options.sessions == 1 ? "a context" : std::to_string(options.sessions) + " contexts";
  std::string remedies;
  if (const int64_t fits = context_that_fits(m, options, *available); fits > 0) {
    remedies = "--max-seq-length " + std::to_string(fits) + ", which fits, or ";
  }
  if (options.sessions > 1) remedies += "fewer sessions, or ";
  throw Error("the cache of " + sessions + " of " + std::to_string(options.context_length) +
              " tokens needs " + gigabytes(bytes) + ", there are " + gigabytes(*available) + "; give " +
              remedies + "a smaller --cache-dtype");
}

lowbit::StateOptions chosen_options(const Metadata& m, const StateChoice& choice) {
  const int64_t context = choice.context_length.value_or(m.context_length);
  if (context < 1 || context > m.longest_context) {
    throw Error("a context of " + std::to_string(context) + " tokens is outside 1.." +
                std::to_string(m.longest_context) + ", what " + m.model_name +
                " was made for; give another --max-seq-length");
  }
  const auto type = choice.cache_type.value_or(
      cache_type_of(m.cache_dtype).value_or(lowbit::CacheType::float32));
  return {context, type, choice.sessions};
}

// Marks a model as running a forward, as long as this object lives.
class Running {
 public:
  Running(std::atomic<bool>& flag, const std::string& name) : flag_(flag) {
    if (flag.exchange(true)) {
      throw Error("a forward of " + name + " is running: it runs one at a time; wait for its end");
    }
  }
  ~Running() { flag_ = false; }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  std::atomic<bool>& flag_;
};

}  // namespace

std::shared_ptr<OwnedState> Model::make_state(const StateChoice& choice) {
  const Metadata& m = metadata();
  if (!m.lowbit) check_stock(m, choice);
  if (!only_state_.expired()) {
    throw Error(m.model_name + kInGraph + "one session at a time; end the other one first");
  }
  const lowbit::StateOptions options = chosen_options(m, choice);
  check_state(m.state, options);
  check_memory(m, options);
  auto state = std::make_shared<OwnedState>(library(), m.state, options);
  if (!m.lowbit) only_state_ = state;
  return state;
}

std::span<const float> Model::run(const Batch& batch, const OwnedState& state,
                                  std::vector<float>& room) {
  const Running running(running_, metadata().model_name);
  state->begin(batch.segments);
  try {
    const auto logits = run_graph(batch, state, room);
    state->end();
    return logits;
  } catch (...) {
    state->abandon();
    throw;
  }
}

}  // namespace runner
