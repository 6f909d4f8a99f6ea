#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "decode/transcript.h"

namespace runner {

// What a command of a chat may see and change.
struct ChatState {
  Transcript& transcript;
  // Throws Error when the model cannot go on with such a conversation.
  std::function<void(const Transcript&)> check;
  std::function<void(std::string_view)> notice;  // a line for the person
};

enum class CommandResult {
  done,
  refused,  // the conversation is as it was, and a notice says why
  quit,
};

// Carries out a line that begins with '/': one of the commands that /help lists.
CommandResult run_command(const std::string& line, const ChatState& state);

}  // namespace runner
