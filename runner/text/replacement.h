#pragma once

#include <string_view>

#include "text/marked_text.h"
#include "text/split_pattern.h"

namespace runner {

// Puts a text in the place of each match of a pattern, as a Replace normalizer does. Const and safe to share
// after construction. Source: tokenizers/src/tokenizer/normalizer.rs, NormalizedString::replace.
class Replacement {
 public:
  // `content`, valid UTF-8, must outlive it. Throws Error when the pattern does not compile.
  Replacement(std::string_view pattern, std::string_view content) : pattern_(pattern), content_(content) {}

  // What takes a match's place is markup where all of the match is.
  MarkedText apply(MarkedView text) const;

 private:
  SplitPattern pattern_;
  std::string_view content_;
};

}  // namespace runner
