#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/chat.h"

namespace runner {

// What has been said in a chat: a system message or none, then user and assistant in turn. On disk
// it is a JSON list of {"role", "content"}, as chat templates take it.
using Conversation = std::vector<Message>;

std::optional<std::string> system_prompt(const Conversation& conversation);

// Without `text`: no system message, so that the template's own counts.
void set_system_prompt(Conversation& conversation, const std::optional<std::string>& text);

// Leaves the system message.
void clear_turns(Conversation& conversation);

// Writes a WholeFile. Throws Error when it cannot, and for a file that is there and is no
// conversation.
void save_conversation(const Conversation& conversation, const std::string& path);

// Throws Error when the file cannot be read, is no ordinary one or above 64 MiB, is no conversation,
// or does not end with an answer.
Conversation load_conversation(const std::string& path);

}  // namespace runner
