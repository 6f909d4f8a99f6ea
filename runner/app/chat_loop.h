#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "app/stats.h"
#include "app/turn_input.h"
#include "decode/conversation.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace runner {

struct ChatOptions {
  std::optional<std::string> system_prompt;  // absent: the template's own, if it has one
  std::optional<std::string> first_turn;     // the user's first turn, never a command
  GenerateOptions generate;                  // `steps` counts a turn
  std::vector<std::string> stop_strings = {};
  ChatInputs inputs = {};     // what the template may know beside the messages
  bool dims_thoughts = false;  // the text goes to a terminal
};

// The world outside a chat, so that tests can stand in for it.
struct ChatIo {
  ReadLine read_line;
  std::function<void(std::string_view)> write;   // the model's text, piece by piece
  std::function<void(std::string_view)> notice;  // a line for the person
  std::function<void()> forget_interrupt = {};   // called after every reply
};

struct ChatResult {
  bool refused = false;      // a turn or a command was
  bool interrupted = false;  // a reply was
};

// Takes turns and commands until the input ends or the person interrupts while it is waited for. An
// interrupted reply is ended and stays in the conversation as far as it was written; a turn that
// does not fit the context is refused, and the chat goes on. The KV cache is kept over the turns:
// of the conversation so far only what the cache does not hold is run.
// Throws Error when the artifact's chat template cannot be used.
ChatResult run_chat(Conversation& conversation, Sampler& sampler, const Tokenizer& tokenizer,
                    const ChatTemplate& chat, const ChatOptions& options, const ChatIo& io,
                    Stats& stats);

}  // namespace runner
