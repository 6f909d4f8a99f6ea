#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "decode/sampler.h"
#include "model/session.h"

namespace runner {

enum class StopReason { stop_token, stop_string, steps, context, interrupted };

struct GenerateOptions {
  int64_t steps = 0;  // most tokens to generate; 0: up to the context's end
  std::vector<int32_t> stop_ids = {};
  std::function<bool()> interrupted = {};  // asked before each forward
  Session::RowSink every_prompt_row = {};  // see Session::append
  bool prompt_only = false;                // generate nothing
};

struct GenerateResult {
  StopReason reason = StopReason::steps;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;  // passed to on_token: a stop token is not
  int64_t decode_forwards = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;  // of the tokens after the first
};

// A continuation of what a session has read. `on_token` receives each token as soon as it is chosen, and
// returns false where it completed a stop string.
struct Continuation {
  Session& session;
  Sampler& sampler;
  std::function<bool(int32_t)> on_token;
  GenerateResult result = {};
};

// Runs `prompt` and generates from it until a stop token, a stop string, the number of steps or the
// context's end: prompt and continuation together never pass the context. Penalties and n-gram limits
// count the session's tokens; those before the first chosen one are the prompt.
// Throws Error when the prompt does not fit the context.
GenerateResult generate(Session& session, Sampler& sampler, std::span<const int32_t> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token);

// Generates all continuations, the next token of each in one forward; each becomes what it would be
// alone. Their `result`s are completed.
void generate_together(std::span<Continuation> continuations, const GenerateOptions& options);

}  // namespace runner
