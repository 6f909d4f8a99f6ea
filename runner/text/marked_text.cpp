#include "text/marked_text.h"

#include <algorithm>

#include "text/tokenizer_table.h"

namespace runner {
namespace {

bool takes_prefix(std::string_view text, uint32_t flags, bool first) {
  if (!(flags & kPrefixSpace)) return false;
  if (first || !(flags & (kPrefixFirstOnly | kPrefixUnlessSpace))) return true;
  if (flags & kCollapseSpaces) {  // which takes the space that is there
    return flags & kPrefixUnlessSpace || text.starts_with(' ');
  }
  return flags & kPrefixUnlessSpace && !text.starts_with(' ');
}

}  // namespace

// Source: sentencepiece/src/normalizer.cc, for the identity rule.
MarkedText normalize(MarkedView segment, uint32_t flags, bool first) {
  MarkedText out;
  if (flags & kMetaspace) {
    out.text = segment.text;
    out.markup = segment.markup;
    return out;
  }
  const std::string_view mark = flags & kEscapeSpaces ? kSpaceMark : " ";
  const bool prefix = takes_prefix(segment.text, flags, first);
  const bool collapse = flags & kCollapseSpaces;
  if (collapse) {
    const size_t n_spaces = std::min(segment.text.find_first_not_of(' '), segment.text.size());
    segment = segment.substr(n_spaces, segment.text.npos);
  }
  const auto& [text, markup] = segment;
  out.text.reserve(text.size() + text.size() / 2 + mark.size());
  out.markup.reserve(text.size() + text.size() / 2 + mark.size());
  if (!text.empty() && prefix) out.append(mark, markup[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ' ') {
      out.append(text.substr(i, 1), markup[i]);
    } else if (!collapse || text[i - 1] != ' ') {
      out.append(mark, markup[i]);
    }
  }
  while (collapse && out.text.ends_with(mark)) out.text.resize(out.text.size() - mark.size());
  out.markup.resize(out.text.size());
  return out;
}

std::string normalize_token(std::string_view text, uint32_t flags) {
  MarkedText marked;
  marked.append(text, kMarkup);
  return normalize(marked.view(), flags, true).text;
}

// Source: tokenizers/src/pre_tokenizers/metaspace.rs.
std::string metaspace(std::string_view text, bool prefix) {
  std::string out = normalize_token(text, kEscapeSpaces);
  if (prefix && !out.starts_with(kSpaceMark)) out.insert(0, kSpaceMark);
  return out;
}

}  // namespace runner
