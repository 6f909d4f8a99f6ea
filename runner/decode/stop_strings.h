#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace runner {

// Finds the first stop string in a text that comes in pieces, and holds back what may be its
// beginning. A text is matched byte by byte; all of it, or only its end, is to be shown.
class StopStrings {
 public:
  // Empty texts stop nothing.
  explicit StopStrings(std::vector<std::string> texts);

  bool empty() const { return texts_.empty(); }
  size_t longest() const { return longest_; }  // bytes
  bool found() const { return found_; }

  // Text that comes before all others: a stop string may begin in it and not end in it.
  void precede(std::string_view text);

  // The next piece, of which the last `shown` bytes are to be shown. Returns what can be shown now:
  // all that is before the stop string, once one ends in `text`.
  std::string push(std::string_view text, size_t shown);

  // What was held back and did not become a stop string; nothing when one was found.
  std::string finish();

 private:
  size_t first_match(size_t old_size) const;
  size_t held_from() const;
  std::string release(size_t end);

  std::vector<std::string> texts_;
  size_t longest_ = 0;
  bool found_ = false;
  // The text's end: `released_` bytes that a stop string may begin in, then what is held back.
  std::string text_;
  std::string shown_;  // of each byte of text_, '\1' where it is to be shown
  size_t released_ = 0;
};

}  // namespace runner
