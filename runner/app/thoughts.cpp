#include "app/thoughts.h"

#include <algorithm>
#include <exception>

namespace runner {
namespace {

constexpr std::string_view kDim = "\x1b[2m", kPlain = "\x1b[22m";

// How many bytes at the end of `text` may be the beginning of `mark`.
size_t begun(std::string_view text, std::string_view mark) {
  for (size_t size = std::min(text.size(), mark.size() - 1); size > 0; --size) {
    if (mark.starts_with(text.substr(text.size() - size))) return size;
  }
  return 0;
}

// Whether the last of both marks in the prompt's last tokens is that of a beginning.
bool ends_within_thought(const ChatTemplate& chat, const Tokenizer& tokenizer, std::span<const int32_t> prompt) {
  constexpr size_t kLooked = 32;
  std::string text;
  for (const int32_t id : prompt.last(std::min(prompt.size(), kLooked))) {
    const std::string_view name = tokenizer.special_name(id);
    text += name.empty() ? tokenizer.decode({&id, 1}) : std::string(name);
  }
  const size_t begin = text.rfind(chat.thought_begin()), end = text.rfind(chat.thought_end());
  return begin != text.npos && (end == text.npos || end < begin);
}

}  // namespace

Thoughts::Thoughts(const ChatTemplate& chat, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                   bool dims, const Write& write)
    : chat_(chat), tokenizer_(tokenizer), write_(write), dims_(dims && !chat.thought_begin().empty()) {
  if (dims_) dim(open_ = ends_within_thought(chat, tokenizer, prompt));
}

Thoughts::~Thoughts() {
  try {
    dim(false);
  } catch (const std::exception&) {  // what cannot be written is not left dim
  }
}

void Thoughts::note_token(int32_t token) {
  const std::string_view name = tokenizer_.special_name(token);
  if (name.empty() || (name != chat_.thought_begin() && name != chat_.thought_end())) return;
  text_ += name;
  if (!dims_) return;
  held_ += name;
  show();
}

void Thoughts::push(std::string_view text) {
  text_ += text;
  if (!dims_) return write_(text);
  held_ += text;
  show();
}

void Thoughts::show() {
  while (true) {
    const std::string& mark = open_ ? chat_.thought_end() : chat_.thought_begin();
    const size_t at = held_.find(mark);
    const size_t whole = at == held_.npos ? held_.size() - begun(held_, mark) : at;
    if (whole > 0) write_(std::string_view(held_).substr(0, whole));
    held_.erase(0, whole);
    if (at == std::string::npos) return;
    if (!open_) dim(true);
    write_(mark);
    held_.erase(0, mark.size());
    if (open_) dim(false);
    open_ = !open_;
  }
}

void Thoughts::dim(bool on) {
  if (on == is_dim_) return;
  write_(on ? kDim : kPlain);
  is_dim_ = on;
}

void Thoughts::finish() {
  if (!held_.empty()) write_(held_);
  held_.clear();
  dim(false);
}

}  // namespace runner
