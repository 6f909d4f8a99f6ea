#pragma once

#include <memory>
#include <optional>
#include <string>

namespace runner {

// Lines of standard input. Where that is a terminal each is asked for with a prompt on standard
// error, and can be edited and called back (arrow keys) if the system has libedit, which is looked
// for when the program runs; without it the terminal's own few keys work. Never where TERM is dumb.
class LineInput {
 public:
  LineInput();
  ~LineInput();
  LineInput(const LineInput&) = delete;
  LineInput& operator=(const LineInput&) = delete;

  bool is_terminal() const { return is_terminal_; }

  // Absent at the end of the input, and when a signal came. `within` chooses the prompt of a line
  // that goes on with what was begun.
  std::optional<std::string> read(bool within);

 private:
  class Editor;

  bool is_terminal_;
  std::unique_ptr<Editor> editor_;  // null: without editing
};

}  // namespace runner
