#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace runner {

// A reply on its way to a terminal, where thoughts are dim. A mark may come in several pieces, and as a
// token that has no text.
class Thoughts {
 public:
  using Write = std::function<void(std::string_view)>;

  // `prompt` may end within a thought. Without `dims` all is written as it comes. All must outlive it.
  Thoughts(const ChatTemplate& chat, const Tokenizer& tokenizer, std::span<const int32_t> prompt, bool dims,
           const Write& write);
  Thoughts(const Thoughts&) = delete;
  Thoughts& operator=(const Thoughts&) = delete;
  // Ends what is dim, also where the reply failed.
  ~Thoughts();

  void note_token(int32_t token);
  void push(std::string_view text);
  // Writes what was held back, and ends what is dim.
  void finish();

  // What was said, with the marks of thoughts.
  const std::string& text() const { return text_; }

 private:
  void show();
  void dim(bool on);

  const ChatTemplate& chat_;
  const Tokenizer& tokenizer_;
  const Write& write_;
  bool dims_, open_ = false, is_dim_ = false;
  std::string text_, held_;
};

}  // namespace runner
