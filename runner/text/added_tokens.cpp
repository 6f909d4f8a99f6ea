#include "text/added_tokens.h"

#include <algorithm>

#include "text/tokenizer_table.h"
#include "text/utf8.h"

namespace runner {

void AddedTokenFinder::add(std::string_view text, int32_t id, uint32_t flags, bool special) {
  by_first_byte_[static_cast<uint8_t>(text[0])].push_back({text, id, flags, special});
  if (flags & kSingleWord && !word_) {
    word_.emplace("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]");  // \w of Rust's regex
  }
}

void AddedTokenFinder::finish() {
  for (std::vector<Token>& tokens : by_first_byte_) {
    // Of two equal texts the last one added counts.
    std::reverse(tokens.begin(), tokens.end());
    std::stable_sort(tokens.begin(), tokens.end(),
                     [](const Token& a, const Token& b) { return a.text < b.text; });
    tokens.erase(std::unique(tokens.begin(), tokens.end(),
                             [](const Token& a, const Token& b) { return a.text == b.text; }),
                 tokens.end());
  }
}

// The longest token here; a special one is wholly markup or wholly content.
const AddedTokenFinder::Token* AddedTokenFinder::longest(MarkedView marked, size_t at) const {
  std::string_view rest = marked.text.substr(at);
  const std::vector<Token>& tokens = by_first_byte_[static_cast<uint8_t>(rest[0])];
  while (true) {
    // The last text that is not after `rest` is the longest that begins it, or shows how much of it
    // those can have that do.
    const auto after = std::upper_bound(
        tokens.begin(), tokens.end(), rest,
        [](std::string_view text, const Token& token) { return text < token.text; });
    if (after == tokens.begin()) return nullptr;
    const Token& token = after[-1];
    const auto differs =
        std::mismatch(token.text.begin(), token.text.end(), rest.begin(), rest.end());
    size_t size = static_cast<size_t>(differs.first - token.text.begin());
    if (size == token.text.size()) {
      const std::string_view kinds = marked.markup.substr(at, size);
      if (!token.special || kinds.find_first_not_of(kinds[0]) == kinds.npos) return &token;
      --size;
    }
    rest = rest.substr(0, size);
  }
}

bool AddedTokenFinder::within_word(std::string_view text, size_t begin, size_t end) const {
  const std::string_view before = last_character(text.substr(0, begin)), after = text.substr(end);
  return (!before.empty() && word_->begins(before)) || (!after.empty() && word_->begins(after));
}

std::vector<Segment> AddedTokenFinder::split(MarkedView marked) const {
  const std::string_view text = marked.text;
  std::vector<Segment> segments;
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const Token* token = longest(marked, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->text.size();
    at = end;  // even where the token does not count, nothing else is found in its text
    if (token->special && marked.markup[begin] == kContent) continue;
    if (token->flags & kSingleWord && within_word(text, begin, end)) continue;
    // A token before it may have taken its white space already, and all of it.
    if (token->flags & kLstrip) begin = done < begin ? space_begin(text, done, begin) : done;
    if (token->flags & kRstrip) end = space_end(text, end);
    if (begin >= end) continue;
    if (done < begin) segments.push_back({done, begin, -1});
    segments.push_back({begin, end, token->id});
    done = end;
  }
  if (done < text.size()) segments.push_back({done, text.size(), -1});
  return segments;
}

}  // namespace runner
