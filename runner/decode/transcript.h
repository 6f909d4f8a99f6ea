#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/chat_template.h"

namespace runner {

// What has been said in a chat: a system message or none, then turns that end with an answer. On disk
// it is a JSON list of {"role", "content", ...}, as chat templates take it.
using Transcript = std::vector<Message>;

std::optional<std::string> system_prompt(const Transcript& transcript);

// Without `text`: no system message, so that the template's own counts.
void set_system_prompt(Transcript& transcript, const std::optional<std::string>& text);

// Leaves the system message.
void clear_turns(Transcript& transcript);

// Writes a WholeFile. Throws Error when it cannot, and for a file that is there and is no
// conversation.
void save_transcript(const Transcript& transcript, const std::string& path);

// Throws Error when the file cannot be read, is no ordinary one or above 64 MiB, is no conversation,
// or does not end with an answer.
Transcript load_transcript(const std::string& path);

}  // namespace runner
