#pragma once

#include <ctime>
#include <optional>
#include <string>

#include "text/chat_template.h"

namespace runner {

// What a person tells a chat template beside messages, by the flags --think, --date and --tools.
struct ChatWishes {
  std::optional<bool> think = {};
  std::optional<std::tm> date = {};
  std::optional<std::string> tools = {};  // a JSON list of objects
  std::string tools_path = {};            // the file that held them, for errors; "" for none
};

// The same as the template takes it. Throws Error with the flag of a wish that it does not take, and for
// tools that are no list of objects.
ChatInputs inputs_of(const ChatWishes& wishes, const ChatTemplate& chat);

// How a list of tools is given, for the end of an error.
inline constexpr const char* kToolsRemedy =
    "; give a list of objects such as [{\"type\": \"function\", \"function\": {...}}] in JSON";

}  // namespace runner
