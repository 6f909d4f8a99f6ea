#include "decode/generate.h"

#include <algorithm>
#include <chrono>

namespace runner {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

GenerateResult generate(Session& session, Sampler& sampler, std::span<const int32_t> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token) {
  GenerateResult result;
  const auto finish = [&](StopReason reason) {
    result.reason = reason;
    return result;
  };
  const auto interrupted = [&] { return options.interrupted && options.interrupted(); };

  const auto prefill_start = Clock::now();
  const int64_t before = session.position();
  const bool whole = session.append(prompt, options.every_prompt_row, options.interrupted);
  result.prompt_tokens = session.position() - before;
  result.prefill_seconds = seconds_since(prefill_start);
  if (!whole) return finish(StopReason::interrupted);
  if (options.prompt_only) return finish(StopReason::steps);

  const auto prompt_end = static_cast<size_t>(session.position());
  Clock::time_point decode_start;
  while (true) {
    if (session.position() >= session.context_length()) return finish(StopReason::context);
    const int32_t token = sampler.sample(session.logits(), {session.tokens(), prompt_end});
    if (result.decode_forwards == 0) {
      decode_start = Clock::now();
    } else {
      result.decode_seconds = seconds_since(decode_start);
    }
    if (std::ranges::find(options.stop_ids, token) != options.stop_ids.end()) {
      return finish(StopReason::stop_token);
    }
    const bool goes_on = on_token(token);
    ++result.generated_tokens;
    if (!goes_on) return finish(StopReason::stop_string);
    if (options.steps > 0 && result.generated_tokens >= options.steps) {
      return finish(StopReason::steps);
    }
    // The token would be the last that fits: nothing can follow it.
    if (session.position() + 1 >= session.context_length()) return finish(StopReason::context);
    if (interrupted()) return finish(StopReason::interrupted);
    session.append(std::span(&token, 1));
    ++result.decode_forwards;
  }
}

}  // namespace runner
