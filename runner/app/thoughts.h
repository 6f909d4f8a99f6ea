#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace runner {

// A reply on its way to a terminal, where thoughts are dim, and into the transcript. A mark may come in
// several pieces, and as tokens that have no text. Marks that no message has are not shown; an empty line
// stands for them.
class Thoughts {
 public:
  using Write = std::function<void(std::string_view)>;

  // `prompt` may end within a thought. Without `dims` thoughts look like answers. All must outlive it.
  Thoughts(const ChatTemplate& chat, const Tokenizer& tokenizer, std::span<const int32_t> prompt, bool dims,
           const Write& write);
  Thoughts(const Thoughts&) = delete;
  Thoughts& operator=(const Thoughts&) = delete;
  // Ends what is dim, also where the reply failed.
  ~Thoughts();

  // Takes a token, then the text that it completes.
  void note_token(int32_t token);
  void push(std::string_view text);
  // Writes what was held back, and ends what is dim.
  void finish();

  // What was said, as the template takes it.
  Message message() const;

 private:
  // Whether all is written as it comes.
  bool passes_on() const { return marks_.in_content && !dims_; }
  void take_pending();
  void show();
  void say(std::string_view text);
  void dim(bool on);

  const ThoughtMarks& marks_;
  const Tokenizer& tokenizer_;
  const Write& write_;
  bool dims_, open_ = false, is_dim_ = false;
  std::string held_;     // its end may be the beginning of a mark
  std::string pending_;  // a mark's token, behind whose text nothing has come yet
  std::string content_, thoughts_;
  bool apart_ = false, said_ = false;  // a mark was not shown; something was
};

}  // namespace runner
