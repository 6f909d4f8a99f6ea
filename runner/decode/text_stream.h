#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "decode/stop_strings.h"
#include "text/tokenizer.h"

namespace runner {

// The text of a continuation as its tokens come: whole characters, and nothing of a stop string.
// A stop string ends it as transformers' StopStringCriteria does: as soon as one ends in a token's
// text, wherever it began, in the tokens before the continuation too; special tokens are matched by
// their names. What is written ends before it.
class TextStream {
 public:
  enum class Start {
    inside,  // the text goes on after the tokens before it, whose last space it may begin with
    fresh,   // it is a text of its own, as a reply is
  };

  // `tokenizer` must outlive the stream; `before` are the tokens before the continuation.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop_strings,
             std::span<const int32_t> before, Start start);

  // The text that `id` completes. Vocabularies are padded: an id without a piece has no text.
  std::string push(int32_t id);
  // Whether a stop string has come: no text follows.
  bool stopped() const { return stops_.found(); }
  // What was held back.
  std::string finish();

 private:
  std::string decode(StreamDecoder& decoder, int32_t id) const;
  std::string matched_text(int32_t id);

  const Tokenizer& tokenizer_;
  StopStrings stops_;
  StreamDecoder shown_, matched_;  // matched_: as if inside a text, and with special tokens' names
};

}  // namespace runner
