#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace runner {

// One line of input without its end; absent at the end of the input and after an interrupt.
// `within` says that the line goes on with what was begun before it.
using ReadLine = std::function<std::optional<std::string>(bool within)>;

// What the user gave: a turn's text, of one or several lines, or a command's line ("/help").
struct TurnInput {
  std::string text;
  bool is_command = false;
};

// Reads lines up to the end of a turn or a command, as kTurnHelp describes them; blank lines before
// it are passed over.
// Returns nothing at the end of the input, and when `interrupted` says so: what was begun is then
// dropped. At the end of the input it is a turn as it stands.
std::optional<TurnInput> read_turn(const ReadLine& read_line,
                                   const std::function<bool()>& interrupted);

// How turns are written, in lines of at most 70 characters.
extern const std::string_view kTurnHelp;

}  // namespace runner
