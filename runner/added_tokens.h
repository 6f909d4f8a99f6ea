#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace runner {

// One added token found in a text, before the white space it takes is counted in.
struct AddedMatch {
  size_t begin, end;
  int32_t id;
  uint32_t flags;
};

// A stretch of a text: an added token, or text between two (id < 0).
struct Segment {
  size_t begin, end;
  int32_t id;
};

// Finds added tokens as tokenizers/src/tokenizer/added_vocabulary.rs does: leftmost, then longest.
class AddedTokenFinder {
 public:
  // `text` is not empty and outlives the finder.
  void add(std::string_view text, int32_t id, uint32_t flags);
  void finish();  // call once, after the last add

  // Matches in text[begin, end), appended in order.
  void find(std::string_view text, size_t begin, size_t end, std::vector<AddedMatch>& out) const;

 private:
  struct Token {
    std::string_view text;
    int32_t id;
    uint32_t flags;
  };
  std::array<std::vector<Token>, 256> by_first_byte_;  // longest first
};

// Cuts valid UTF-8 at the matches, which take white space around them where their flags say so.
std::vector<Segment> cut(std::string_view text, const std::vector<AddedMatch>& matches);

}  // namespace runner
