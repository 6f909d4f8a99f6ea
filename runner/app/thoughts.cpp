#include "app/thoughts.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "text/template_value.h"
#include "text/utf8.h"

namespace runner {
namespace {

constexpr std::string_view kDim = "\x1b[2m", kPlain = "\x1b[22m";
constexpr std::string_view kApart = "\n\n";

// Calls f(mark, whether a thought follows it) for each mark.
template <class F>
void each_mark(const ThoughtMarks& marks, F f) {
  for (const std::string& mark : marks.thought) f(mark, true);
  for (const std::string& mark : marks.answer) f(mark, false);
}

// A mark in a text.
struct Found {
  size_t at = std::string::npos, size = 0;
  bool thought = false;
};

Found first_mark(const ThoughtMarks& marks, std::string_view text) {
  Found first;
  each_mark(marks, [&](std::string_view mark, bool thought) {
    const size_t at = text.find(mark);
    if (at < first.at) first = {at, mark.size(), thought};
  });
  return first;
}

// How many bytes at the end of `text` may be the beginning of a mark.
size_t begun(const ThoughtMarks& marks, std::string_view text) {
  size_t most = 0;
  each_mark(marks, [&](std::string_view mark, bool) {
    for (size_t size = std::min(text.size(), mark.size() - 1); size > most; --size) {
      if (mark.starts_with(text.substr(text.size() - size))) most = size;
    }
  });
  return most;
}

// Whether a token of this name is what a message begins or ends with, and not (part of) a mark.
bool is_apart(const ThoughtMarks& marks, std::string_view name) {
  bool marks_have_it = false;
  each_mark(marks, [&](std::string_view mark, bool) { marks_have_it |= mark.find(name) != mark.npos; });
  return !name.empty() && !marks_have_it;
}

// Whether the last mark in the prompt's last tokens is that of a thought. What is before the last special
// token that is no mark's is what a user said, marks written by hand among it.
bool ends_within_thought(const ThoughtMarks& marks, const Tokenizer& tokenizer,
                         std::span<const int32_t> prompt) {
  constexpr size_t kLooked = 32;
  std::string text;
  for (const int32_t id : prompt.last(std::min(prompt.size(), kLooked))) {
    const std::string_view name = tokenizer.special_name(id);
    if (is_apart(marks, name)) text.clear();
    text += name.empty() ? tokenizer.decode({&id, 1}) : std::string(name);
  }
  size_t last = 0;
  bool within = false;
  each_mark(marks, [&](std::string_view mark, bool thought) {
    const size_t at = text.rfind(mark);
    if (at == text.npos || at < last) return;
    last = at;
    within = thought;
  });
  return within;
}

}  // namespace

Thoughts::Thoughts(const ChatTemplate& chat, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                   bool dims, const Write& write)
    : marks_(chat.thought_marks()),
      tokenizer_(tokenizer),
      write_(write),
      dims_(dims),
      open_(ends_within_thought(marks_, tokenizer, prompt)) {
  dim(open_);
}

Thoughts::~Thoughts() {
  try {
    dim(false);
  } catch (const std::exception&) {  // what cannot be written is not left dim
  }
}

void Thoughts::note_token(int32_t token) {
  take_pending();
  const std::string_view name = tokenizer_.special_name(token);
  if (name.empty()) return;
  each_mark(marks_, [&](std::string_view mark, bool) {
    if (mark.find(name) != mark.npos) pending_ = name;
  });
}

// The text that a mark's token completes is of the tokens before it.
void Thoughts::push(std::string_view text) {
  if (passes_on()) {
    content_ += text;
    return write_(text);
  }
  held_ += text;
  show();
}

void Thoughts::take_pending() {
  if (passes_on()) {
    content_ += std::exchange(pending_, {});
    return;
  }
  held_ += std::exchange(pending_, {});
  show();
}

void Thoughts::show() {
  while (true) {
    const Found mark = first_mark(marks_, held_);
    const size_t whole = mark.size > 0 ? mark.at : held_.size() - begun(marks_, held_);
    say(std::string_view(held_).substr(0, whole));
    if (mark.size > 0 && marks_.in_content) {
      if (mark.thought) dim(true);
      say(std::string_view(held_).substr(whole, mark.size));
    }
    held_.erase(0, whole + mark.size);
    if (mark.size == 0) return;
    open_ = mark.thought;
    if (!open_ && marks_.in_content) dim(false);
    apart_ = !marks_.in_content;
  }
}

void Thoughts::say(std::string_view text) {
  if (text.empty()) return;
  std::string& part = open_ && !marks_.in_content ? thoughts_ : content_;
  if (std::exchange(apart_, false)) {
    if (!open_) dim(false);
    if (said_) write_(kApart);
    if (!part.empty()) part += kApart;
  }
  if (open_) dim(true);
  part += text;
  write_(text);
  said_ = true;
}

void Thoughts::dim(bool on) {
  if (!dims_ || on == is_dim_) return;
  write_(on ? kDim : kPlain);
  is_dim_ = on;
}

void Thoughts::finish() {
  take_pending();
  say(std::exchange(held_, {}));
  dim(false);
}

Message Thoughts::message() const {
  Message said{"assistant", content_};
  if (thoughts_.empty()) return said;
  MarkedText fields;
  templates::append_json(
      templates::dict_value({{templates::text_value("reasoning_content"),
                              templates::text_value(to_valid_utf8(thoughts_), kContent)}}),
      {}, fields);
  said.fields = fields.text;
  return said;
}

}  // namespace runner
