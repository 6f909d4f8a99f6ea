#include "text/utf8.h"

namespace runner {
namespace {

// One step through bytes of any kind.
struct Step {
  size_t size;      // bytes of the character, or of the maximal ill-formed part
  bool valid;       // a well-formed character
  bool incomplete;  // ill-formed only because the text ends
};

// Ranges of the second byte: Unicode Standard, table 3-7.
Step step(std::string_view text) {
  const auto lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (size_t i = 1; i < size; ++i) {
    if (i == text.size()) return {i, false, true};
    const auto byte = static_cast<uint8_t>(text[i]);
    uint8_t low = 0x80, high = 0xBF;
    if (i == 1) {
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (byte < low || byte > high) return {i, false, false};
  }
  return {size, true, false};
}

// The Unicode property White_Space.
bool is_white_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_python_space(uint32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

template <class Predicate>
size_t run_begin(std::string_view text, size_t begin, size_t end, Predicate is_space) {
  while (end > begin) {
    const std::string_view last = last_character(text.substr(begin, end - begin));
    if (!is_space(code_point(last))) break;
    end -= last.size();
  }
  return end;
}

template <class Predicate>
size_t run_end(std::string_view text, size_t begin, Predicate is_space) {
  while (begin < text.size()) {
    const size_t size = utf8_length(text.substr(begin));
    if (!is_space(code_point(text.substr(begin, size)))) break;
    begin += size;
  }
  return begin;
}

}  // namespace

std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Step next = step(text);
    if (next.valid) {
      out.append(text.substr(0, next.size));
    } else {
      out.append("\xEF\xBF\xBD");
    }
    text.remove_prefix(next.size);
  }
  return out;
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Step next = step(text.substr(at));
    if (!next.valid) break;
    at += next.size;
  }
  return at;
}

size_t complete_utf8_prefix(std::string_view text) {
  // Only a lead byte among the last three can begin a sequence that is cut off.
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const size_t start = text.size() - back;
    if ((static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) continue;
    return step(text.substr(start)).incomplete ? start : text.size();
  }
  return text.size();
}

uint32_t code_point(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(character[i]) & 0xFF; };
  switch (character.size()) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 |
             (byte(3) & 0x3F);
  }
}

void append_utf8(std::string& text, uint32_t code) {
  const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  const uint32_t lead = more ? 0xFF00u >> (more + 1) & 0xFF : 0;
  text += static_cast<char>(lead | code >> 6 * more);
  for (int i = more; i-- > 0;) text += static_cast<char>(0x80 | (code >> 6 * i & 0x3F));
}

size_t utf8_length(std::string_view valid_text) { return step(valid_text).size; }

std::string_view last_character(std::string_view valid_text) {
  size_t start = valid_text.size();
  while (start > 0 && (static_cast<uint8_t>(valid_text[--start]) & 0xC0) == 0x80) {
  }
  return valid_text.substr(start);
}

size_t space_begin(std::string_view valid_text, size_t begin, size_t end) {
  return run_begin(valid_text, begin, end, is_white_space);
}

size_t space_end(std::string_view valid_text, size_t begin) {
  return run_end(valid_text, begin, is_white_space);
}

std::string_view strip_left(std::string_view valid_text) {
  return valid_text.substr(run_end(valid_text, 0, is_python_space));
}

std::string_view strip_right(std::string_view valid_text) {
  return valid_text.substr(0, run_begin(valid_text, 0, valid_text.size(), is_python_space));
}

}  // namespace runner
