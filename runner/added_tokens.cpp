#include "runner/added_tokens.h"

#include <algorithm>

#include "runner/tokenizer_table.h"
#include "runner/utf8.h"

namespace runner {

void AddedTokenFinder::add(std::string_view text, int32_t id, uint32_t flags) {
  by_first_byte_[static_cast<uint8_t>(text[0])].push_back({text, id, flags});
}

void AddedTokenFinder::finish() {
  for (std::vector<Token>& tokens : by_first_byte_) {
    // Of two equal texts the last one added counts.
    std::reverse(tokens.begin(), tokens.end());
    std::stable_sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) {
      return a.text.size() > b.text.size();
    });
  }
}

void AddedTokenFinder::find(std::string_view text, size_t begin, size_t end,
                            std::vector<AddedMatch>& out) const {
  for (size_t at = begin; at < end;) {
    const std::string_view rest = text.substr(at, end - at);
    const auto& tokens = by_first_byte_[static_cast<uint8_t>(rest[0])];
    const auto found = std::find_if(tokens.begin(), tokens.end(), [&](const Token& token) {
      return rest.starts_with(token.text);
    });
    if (found == tokens.end()) {
      ++at;
    } else {
      out.push_back({at, at + found->text.size(), found->id, found->flags});
      at += found->text.size();
    }
  }
}

std::vector<Segment> cut(std::string_view text, const std::vector<AddedMatch>& matches) {
  std::vector<Segment> segments;
  size_t done = 0;
  for (const AddedMatch& match : matches) {
    size_t begin = match.begin, end = match.end;
    if (match.flags & kLstrip && done < begin) begin = space_begin(text, done, begin);
    if (match.flags & kRstrip) end = space_end(text, end);
    if (done < begin) segments.push_back({done, begin, -1});
    segments.push_back({begin, end, match.id});
    done = end;
  }
  if (done < text.size()) segments.push_back({done, text.size(), -1});
  return segments;
}

}  // namespace runner
