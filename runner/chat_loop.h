#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runner/chat.h"
#include "runner/generate.h"
#include "runner/stats.h"
#include "runner/tokenizer.h"

namespace runner {

struct ChatOptions {
  std::optional<std::string> system_prompt;  // absent: the template's own, if it has one
  std::optional<std::string> first_turn;     // the user's first turn; further ones are read
  GenerateOptions generate;                  // `steps` counts a turn
  std::vector<std::string> stop_strings = {};
};

// The world outside a chat, so that tests can stand in for it.
struct ChatIo {
  std::function<std::optional<std::string>()> read_turn;  // absent at the end of the input
  std::function<void(std::string_view)> write;            // the model's text, piece by piece
  std::function<void(std::string_view)> notice;           // a line for the person
};

// Takes turns until the input ends, the context is full or the person interrupts. The KV cache is
// kept over the turns: of the conversation so far only what the cache does not hold is run.
// Throws Error when the artifact's chat template could not be reduced at export.
void run_chat(Session& session, Sampler& sampler, const Tokenizer& tokenizer,
              const ChatFormat& format, const ChatOptions& options, const ChatIo& io, Stats& stats);

}  // namespace runner
