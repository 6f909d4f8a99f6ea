#include "text/template_text.h"

#include <charconv>
#include <cstdlib>

#include "system/error.h"
#include "text/split_pattern.h"
#include "text/utf8.h"

namespace runner::templates {
namespace {

size_t byte_at(std::string_view text, int64_t character) {
  size_t at = 0;
  for (; character > 0 && at < text.size(); --character) at += utf8_length(text.substr(at));
  return at;
}

MarkedView range(MarkedView text, size_t begin, size_t end) { return text.substr(begin, end - begin); }

bool is_space(std::string_view character) { return strip_left(character).empty(); }

Value owned(MarkedView part) { return MarkedText{std::string(part.text), std::string(part.markup)}; }

std::vector<Value> split_at_spaces(MarkedView text, int64_t most) {
  std::vector<Value> parts;
  text = stripped(text, Side::left, None());
  while (!text.text.empty() && (most < 0 || std::ssize(parts) < most)) {
    size_t end = 0;
    while (end < text.text.size()) {
      const size_t size = utf8_length(text.text.substr(end));
      if (is_space(text.text.substr(end, size))) break;
      end += size;
    }
    parts.push_back(owned(range(text, 0, end)));
    text = stripped(range(text, end, text.text.size()), Side::left, None());
  }
  if (!text.text.empty()) parts.push_back(owned(stripped(text, Side::right, None())));
  return parts;
}

// The length of the line end at `at`: those of Python's str.splitlines.
size_t line_end(std::string_view text, size_t at) {
  constexpr std::string_view kEnds[] = {"\r\n", "\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e",
                                        "\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xa9"};
  for (const std::string_view end : kEnds) {
    if (text.substr(at).starts_with(end)) return end.size();
  }
  return 0;
}

bool has_two_cases(std::string_view character) {
  static const SplitPattern cased("[\\p{Lu}\\p{Ll}\\p{Lt}\\x{2160}-\\x{217f}\\x{24b6}-\\x{24e9}]");
  return cased.begins(character);
}

}  // namespace

int64_t length(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (c & 0xc0) != 0x80;
  return count;
}

MarkedView characters(MarkedView text, int64_t begin, int64_t end) {
  const size_t first = byte_at(text.text, begin);
  if (end <= begin) return range(text, first, first);
  return range(text, first, first + byte_at(text.text.substr(first), end - begin));
}

MarkedView stripped(MarkedView text, Side side, const Value& drop) {
  const auto dropped = [&](std::string_view character) {
    return drop.is_text() ? drop.bytes().find(character) != std::string_view::npos : is_space(character);
  };
  size_t begin = 0, end = text.text.size();
  while (side != Side::right && begin < end) {
    const size_t size = utf8_length(text.text.substr(begin));
    if (!dropped(text.text.substr(begin, size))) break;
    begin += size;
  }
  while (side != Side::left && begin < end) {
    const std::string_view last = last_character(text.text.substr(begin, end - begin));
    if (!dropped(last)) break;
    end -= last.size();
  }
  return range(text, begin, end);
}

std::vector<Value> split(MarkedView text, const Value& separator, int64_t most, bool from_right) {
  if (!separator.is_text()) {
    if (from_right && most >= 0) throw Error("the chat template uses rsplit without a separator");
    return split_at_spaces(text, most);
  }
  const std::string_view by = separator.bytes();
  if (by.empty()) throw Error("the chat template splits a text at an empty one");
  std::vector<Value> parts;
  size_t begin = 0, end = text.text.size();
  while (most < 0 || std::ssize(parts) < most) {
    const std::string_view rest = text.text.substr(begin, end - begin);
    const size_t found = from_right ? rest.rfind(by) : rest.find(by);
    if (found == rest.npos) break;
    if (from_right) {
      parts.push_back(owned(range(text, found + by.size(), end)));
      end = found;
    } else {
      parts.push_back(owned(range(text, begin, begin + found)));
      begin += found + by.size();
    }
  }
  parts.push_back(owned(range(text, begin, end)));
  if (from_right) parts = {parts.rbegin(), parts.rend()};
  return parts;
}

std::vector<Value> split_lines(MarkedView text, bool keep_ends) {
  std::vector<Value> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.text.size();) {
    const size_t size = line_end(text.text, at);
    if (size == 0) {
      ++at;
      continue;
    }
    lines.push_back(owned(range(text, begin, keep_ends ? at + size : at)));
    begin = at += size;
  }
  if (begin < text.text.size()) lines.push_back(owned(range(text, begin, text.text.size())));
  return lines;
}

MarkedText replaced(MarkedView text, MarkedView from, MarkedView to, int64_t most) {
  MarkedText out;
  size_t done = 0;
  for (size_t at = 0; most != 0; --most) {  // an empty `from` is before every character and at the end
    const size_t found = text.text.find(from.text, at);
    if (found == text.text.npos) break;
    append(out, range(text, done, found));
    append(out, to);
    done = found + from.text.size();
    at = done;
    if (from.text.empty()) {
      if (found == text.text.size()) break;
      at += utf8_length(text.text.substr(found));
    }
  }
  append(out, range(text, done, text.text.size()));
  return out;
}

MarkedText with_case(MarkedView text, Case wanted) {
  MarkedText out{std::string(text.text), std::string(text.markup)};
  bool in_word = false;
  for (size_t at = 0; at < text.text.size();) {
    const size_t size = utf8_length(text.text.substr(at));
    char& c = out.text[at];
    const bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
    if (size > 1 && has_two_cases(text.text.substr(at, size))) {
      throw Error("the chat template changes the case of '" + std::string(text.text.substr(at, size)) +
                  "', which this runner does for ASCII alone");
    }
    const bool raises = wanted == Case::upper || (wanted == Case::title && !in_word) ||
                        (wanted == Case::capital && at == 0);
    if (lower && raises) c = static_cast<char>(c - 'a' + 'A');
    if (upper && !raises) c = static_cast<char>(c - 'A' + 'a');
    in_word = lower || upper;
    at += size;
  }
  return out;
}

MarkedText indented(MarkedView text, std::string_view margin, bool first, bool blank) {
  MarkedText whole, out;  // Jinja adds a line end, so that the last line counts
  append(whole, text);
  whole.append("\n", kMarkup);
  const std::vector<Value> lines = split_lines(whole.view(), false);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append("\n", kMarkup);
    if (i == 0 ? first : blank || !lines[i].bytes().empty()) out.append(margin, kMarkup);
    append(out, lines[i].text());
  }
  return out;
}

MarkedText formatted(MarkedView text, const std::vector<Value>& values) {
  MarkedText out;
  size_t next = 0;
  for (size_t at = 0; at < text.text.size(); ++at) {
    const std::string_view two = text.text.substr(at, 2);
    if (two == "{{" || two == "}}") {
      append(out, text.substr(at++, 1));
    } else if (two == "{}" && next < values.size()) {
      append_str(values[next++], out);
      ++at;
    } else if (two[0] == '{' || two[0] == '}') {
      throw Error("the chat template formats '" + std::string(text.text) + "', where only {} is known");
    } else {
      append(out, text.substr(at, 1));
    }
  }
  return out;
}

std::optional<int64_t> parsed_integer(std::string_view text) {
  text = strip_right(strip_left(text));
  const bool plus = text.starts_with('+');
  if (plus) text.remove_prefix(1);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || end != text.data() + text.size()) return std::nullopt;
  if (plus && text[0] == '-') return std::nullopt;
  if (error == std::errc::result_out_of_range) throw Error("the chat template reads an integer beyond 64 bits");
  return number;
}

std::optional<double> parsed_real(std::string_view text) {
  const std::string digits(strip_right(strip_left(text)));
  if (digits.empty() || digits.find_first_not_of("0123456789+-.eE") != digits.npos) return std::nullopt;
  char* end = nullptr;
  const double number = std::strtod(digits.c_str(), &end);
  if (end != digits.c_str() + digits.size()) return std::nullopt;
  return number;
}

}  // namespace runner::templates
