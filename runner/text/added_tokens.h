#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "text/marked_text.h"
#include "text/split_pattern.h"

namespace runner {

// A stretch of a text: an added token, or text between two (id < 0).
struct Segment {
  size_t begin, end;
  int32_t id;
};

// Finds added tokens as tokenizers/src/tokenizer/added_vocabulary.rs does: from left to right, at
// each position the longest. Special tokens are found in markup only. Const after finish().
class AddedTokenFinder {
 public:
  // `text` is not empty and outlives the finder. `flags` are AddedFlags.
  void add(std::string_view text, int32_t id, uint32_t flags, bool special);
  void finish();  // call once, after the last add

  // Cuts valid UTF-8 at its tokens, which take white space around them where their flags say so.
  std::vector<Segment> split(MarkedView marked) const;

 private:
  struct Token {
    std::string_view text;
    int32_t id;
    uint32_t flags;
    bool special;
  };

  const Token* longest(MarkedView marked, size_t at) const;
  bool within_word(std::string_view text, size_t begin, size_t end) const;

  std::array<std::vector<Token>, 256> by_first_byte_;  // ascending by text, each text once
  std::optional<SplitPattern> word_;                   // where a token asks for it
};

}  // namespace runner
