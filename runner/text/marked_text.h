#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace runner {

inline constexpr char kContent = 0, kMarkup = 1;

// A text with one byte for each of its bytes: kMarkup or kContent.
struct MarkedView {
  std::string_view text, markup;

  MarkedView substr(size_t begin, size_t size) const {
    return {text.substr(begin, size), markup.substr(begin, size)};
  }
};

struct MarkedText {
  std::string text, markup;

  void append(std::string_view part, char kind) {
    text += part;
    markup.append(part.size(), kind);
  }
  MarkedView view() const { return {text, markup}; }
};

// A segment of text as BPE sees it, but for kMetaspace. `first` says that the segment begins the
// text; else it comes after an added token.
MarkedText normalize(MarkedView segment, uint32_t table_flags, bool first);

// An added token's text as normalize() makes it at the start of a text.
std::string normalize_token(std::string_view text, uint32_t table_flags);

// kMetaspace's part: spaces escaped and, with `prefix`, one put before where there is none.
std::string metaspace(std::string_view text, bool prefix);

}  // namespace runner
