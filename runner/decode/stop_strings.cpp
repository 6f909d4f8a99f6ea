#include "decode/stop_strings.h"

#include <algorithm>
#include <utility>

namespace runner {

StopStrings::StopStrings(std::vector<std::string> texts) : texts_(std::move(texts)) {
  std::erase_if(texts_, [](const std::string& text) { return text.empty(); });
  for (const std::string& text : texts_) longest_ = std::max(longest_, text.size());
}

void StopStrings::precede(std::string_view text) {
  text_ += text;
  shown_.resize(text_.size(), '\0');
  released_ = text_.size();
}

std::string StopStrings::push(std::string_view text, size_t shown) {
  if (found_) return "";
  const size_t old_size = text_.size();
  text_ += text;
  shown_.resize(text_.size() - std::min(shown, text.size()), '\0');
  shown_.resize(text_.size(), '\1');
  const size_t match = first_match(old_size);
  found_ = match < text_.size();
  return release(found_ ? std::max(match, released_) : std::max(held_from(), released_));
}

std::string StopStrings::finish() { return found_ ? "" : release(text_.size()); }

// Where the first of the stop strings that end after `old_size` begins; the text's size without.
size_t StopStrings::first_match(size_t old_size) const {
  size_t first = text_.size();
  for (const std::string& stop : texts_) {
    const size_t from = old_size + 1 > stop.size() ? old_size + 1 - stop.size() : 0;
    first = std::min(first, text_.find(stop, from));
  }
  return first;
}

// Where the longest end of the text that begins a stop string begins.
size_t StopStrings::held_from() const {
  const std::string_view text = text_;
  for (size_t from = text.size() - std::min(text.size(), longest_); from < text.size(); ++from) {
    const std::string_view end = text.substr(from);
    const auto begins = [&](const std::string& stop) { return stop.starts_with(end); };
    if (std::ranges::any_of(texts_, begins)) return from;
  }
  return text.size();
}

// Gives what is to be shown before `end`, and forgets what no stop string can begin in any more.
std::string StopStrings::release(size_t end) {
  std::string text;
  for (size_t i = released_; i < end; ++i) {
    if (shown_[i]) text += text_[i];
  }
  const size_t kept = std::min(longest_, end);
  text_.erase(0, end - kept);
  shown_.erase(0, end - kept);
  released_ = kept;
  return text;
}

}  // namespace runner
