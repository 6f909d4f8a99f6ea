#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/session.h"

namespace runner {

struct ScoreOptions {
  // Called before each forward with how many of the tokens have been run; may throw.
  std::function<void(int64_t done)> progress = {};
};

// The log-probability (natural logarithm) of tokens[i] given all tokens before it, for i from
// `first` to the last: tokens.size() - first values. Rewinds the session, runs the tokens in chunks,
// and asks for logits only where a value comes of them: what is held is one chunk's rows.
// Throws Error when `first` is not from 1 to tokens.size() - 1, a token is outside the vocabulary,
// the tokens do not fit the context, or a logit is not a number.
std::vector<float> score(Session& session, std::span<const int32_t> tokens, int64_t first,
                         const ScoreOptions& options = {});

}  // namespace runner
