#include "decode/generate.h"

#include <algorithm>
#include <chrono>
#include <optional>

namespace runner {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One continuation on its way.
struct Line {
  Continuation& of;
  const GenerateOptions& options;
  size_t prompt_end;
  Clock::time_point decode_start = {};
  int32_t token = 0;  // the last one chosen

  // Chooses the next token. Returns whether it is to be run: false where the continuation has ended.
  bool choose() {
    GenerateResult& result = of.result;
    const Session& session = of.session;
    const auto finish = [&](StopReason reason) {
      result.reason = reason;
      return false;
    };
    if (session.position() >= session.context_length()) return finish(StopReason::context);
    token = of.sampler.sample(session.logits(), {session.tokens(), prompt_end});
    if (result.decode_forwards == 0) {
      decode_start = Clock::now();
    } else {
      result.decode_seconds = seconds_since(decode_start);
    }
    if (std::ranges::find(options.stop_ids, token) != options.stop_ids.end()) {
      return finish(StopReason::stop_token);
    }
    const bool goes_on = of.on_token(token);
    ++result.generated_tokens;
    if (!goes_on) return finish(StopReason::stop_string);
    if (options.steps > 0 && result.generated_tokens >= options.steps) {
      return finish(StopReason::steps);
    }
    // The token would be the last that fits: nothing can follow it.
    if (session.position() + 1 >= session.context_length()) return finish(StopReason::context);
    if (options.interrupted && options.interrupted()) return finish(StopReason::interrupted);
    ++result.decode_forwards;
    return true;
  }
};

// How many sessions a forward takes.
size_t most_turns(const Model& model) {
  return static_cast<size_t>(std::min({model.metadata().max_segments, model.metadata().max_rows,
                                       model.metadata().max_chunk}));
}

}  // namespace

void generate_together(std::span<Continuation> continuations, const GenerateOptions& options) {
  std::vector<Line> lines;
  for (Continuation& each : continuations) {
    lines.push_back({each, options, static_cast<size_t>(each.session.position())});
  }
  std::vector<Line*> running;
  for (Line& line : lines) running.push_back(&line);
  std::vector<Turn> turns;
  while (!running.empty()) {
    std::erase_if(running, [](Line* line) { return !line->choose(); });
    for (size_t first = 0; first < running.size(); first += turns.size()) {
      const size_t most = most_turns(running[0]->of.session.model());
      turns.clear();
      for (size_t i = first; i < running.size() && turns.size() < most; ++i) {
        turns.push_back({&running[i]->of.session, {&running[i]->token, 1}});
      }
      append_together(turns);
    }
  }
}

GenerateResult generate(Session& session, Sampler& sampler, std::span<const int32_t> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token) {
  Continuation continuation{session, sampler, on_token};
  GenerateResult& result = continuation.result;
  const auto prefill_start = Clock::now();
  const int64_t before = session.position();
  const bool whole = session.append(prompt, options.every_prompt_row, options.interrupted);
  result.prompt_tokens = session.position() - before;
  result.prefill_seconds = seconds_since(prefill_start);
  if (!whole) result.reason = StopReason::interrupted;
  if (whole && !options.prompt_only) generate_together({&continuation, 1}, options);
  return result;
}

}  // namespace runner
