#include "text/replacement.h"

namespace runner {

MarkedText Replacement::apply(MarkedView text) const {
  MarkedText out;
  size_t done = 0;
  const auto copy = [&](size_t to) {
    out.text += text.text.substr(done, to - done);
    out.markup += text.markup.substr(done, to - done);
  };
  for (const std::string_view match : pattern_.matches(text.text)) {
    const auto begin = static_cast<size_t>(match.data() - text.text.data());
    copy(begin);
    const bool content = text.markup.substr(begin, match.size()).find(kContent) != std::string_view::npos;
    out.append(content_, content ? kContent : kMarkup);
    done = begin + match.size();
  }
  copy(text.text.size());
  return out;
}

}  // namespace runner
