#pragma once

#include <optional>
#include <string>

namespace runner {

// Texts that are not on the command line. All are UTF-8 with or without a byte order mark, which
// is left out, as is one line end at the very end. All throw Error when the text cannot be read, is
// not UTF-8, holds a zero byte, which no text does, or has more than 64 MiB. An interrupt ends the
// reading: what is returned then is no prompt.

// The text of the file that --prompt-file names.
std::string prompt_from_file(const std::string& path);

// The text of a file, `name` in the error's text, which `remedy` ends where it cannot be opened.
std::string text_from_file(const std::string& path, const std::string& name, const std::string& remedy);

// All of standard input. Absent where it is a terminal, closed or empty. `waiting` is called once
// when nothing has come for two seconds, since a caller may have left a pipe open by mistake.
std::optional<std::string> prompt_from_stdin(void (*waiting)());

}  // namespace runner
