// How values are written: as Python's str() and repr(), and as its json.dumps().

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "system/error.h"
#include "text/split_pattern.h"
#include "text/template_value.h"
#include "text/utf8.h"

namespace runner::templates {
namespace {

void put(MarkedText& out, std::string_view text) { out.append(text, kMarkup); }

// "\xe9", "\u2028" or "\U0001f600".
std::string python_escape(uint32_t code) {
  char digits[16];
  std::snprintf(digits, sizeof digits, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x",
                static_cast<unsigned>(code));
  return digits;
}

bool is_printable(std::string_view character) {
  const auto byte = static_cast<uint8_t>(character[0]);
  if (byte < 0x80) return byte >= 0x20 && byte != 0x7f;
  static const SplitPattern hidden("[\\p{C}\\p{Z}]");
  return !hidden.begins(character);
}

// A string's repr: in single quotes, but where it holds those and no double ones.
void append_quoted(MarkedView view, MarkedText& out) {
  const bool has_single = view.text.find('\'') != view.text.npos;
  const char quote = has_single && view.text.find('"') == view.text.npos ? '"' : '\'';
  out.append({&quote, 1}, kMarkup);
  for (size_t at = 0; at < view.text.size();) {
    const size_t size = utf8_length(view.text.substr(at));
    const std::string_view character = view.text.substr(at, size);
    const char mark = view.markup[at], c = character[0];
    if (c == quote || c == '\\') {
      out.append("\\" + std::string(character), mark);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out.append(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t", mark);
    } else if (is_printable(character)) {
      out.append(character, mark);
    } else {
      out.append(python_escape(code_point(character)), mark);
    }
    at += size;
  }
  out.append({&quote, 1}, kMarkup);
}

void append_json_string(MarkedView view, bool ensure_ascii, MarkedText& out) {
  put(out, "\"");
  for (size_t at = 0; at < view.text.size();) {
    const size_t size = utf8_length(view.text.substr(at));
    const std::string_view character = view.text.substr(at, size);
    const char mark = view.markup[at], c = character[0];
    constexpr std::string_view kShort = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
    char digits[16];
    if (const size_t found = kShort.find(c); found != kShort.npos) {
      out.append(std::string("\\") + kLetters[found], mark);
    } else if (static_cast<uint8_t>(c) < 0x20) {
      std::snprintf(digits, sizeof digits, "\\u%04x", static_cast<unsigned>(c));
      out.append(digits, mark);
    } else if (ensure_ascii && size > 1) {
      uint32_t code = code_point(character);
      if (code >= 0x10000) {
        code -= 0x10000;
        std::snprintf(digits, sizeof digits, "\\u%04x", static_cast<unsigned>(0xd800 + (code >> 10)));
        out.append(digits, mark);
        code = 0xdc00 + (code & 0x3ff);
      }
      std::snprintf(digits, sizeof digits, "\\u%04x", static_cast<unsigned>(code));
      out.append(digits, mark);
    } else {
      out.append(character, mark);
    }
    at += size;
  }
  put(out, "\"");
}

class JsonWriter {
 public:
  JsonWriter(const JsonForm& form, MarkedText& out) : form_(form), out_(out) {}

  void write(const Value& value) {
    if (value.is_none()) return put(out_, "null");
    if (const bool* truth = value.get<bool>()) return put(out_, *truth ? "true" : "false");
    if (value.is_number()) return write_number(value);
    if (value.is_text()) return append_json_string(value.text(), form_.ensure_ascii, out_);
    if (is_sequence(value)) return write_list(value.list().items);
    if (value.is_dict()) return write_dict(value.dict());
    throw Error(std::string("the chat template writes ") + kind_name(value) + " as JSON");
  }

 private:
  void write_number(const Value& value) {
    if (!value.is<double>()) return put(out_, std::to_string(*value.integer()));
    const double number = value.real();
    if (std::isfinite(number)) return put(out_, real_text(number));
    put(out_, std::isnan(number) ? "NaN" : number < 0 ? "-Infinity" : "Infinity");
  }

  void write_list(const std::vector<Value>& items) {
    if (items.empty()) return put(out_, "[]");
    put(out_, "[");
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      begin_item(i);
      write(items[i]);
    }
    end("]");
  }

  void write_dict(const Dict& dict) {
    if (dict.items.empty()) return put(out_, "{}");
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (form_.sort_keys) {
      std::ranges::stable_sort(items, [](auto* a, auto* b) { return order(a->first, b->first) < 0; });
    }
    put(out_, "{");
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      begin_item(i);
      write_key(items[i]->first);
      put(out_, form_.after_key);
      write(items[i]->second);
    }
    end("}");
  }

  void write_key(const Value& key) {
    if (key.is_text()) return append_json_string(key.text(), form_.ensure_ascii, out_);
    if (!key.is_none() && !key.is_number()) {
      throw Error(std::string("the chat template writes JSON with ") + kind_name(key) + " as a key");
    }
    put(out_, "\"");
    write(key);
    put(out_, "\"");
  }

  void begin_item(size_t index) {
    if (index > 0) put(out_, form_.between);
    new_line();
  }

  void end(std::string_view bracket) {
    --level_;
    new_line();
    put(out_, bracket);
  }

  void new_line() {
    if (!form_.indent) return;
    put(out_, "\n");
    for (int i = 0; i < level_; ++i) put(out_, *form_.indent);
  }

  const JsonForm& form_;
  MarkedText& out_;
  int level_ = 0;
};

}  // namespace

void append(MarkedText& out, MarkedView part) {
  out.text += part.text;
  out.markup += part.markup;
}

// The fewest digits that are read back as the same number, laid out as Python does.
std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char written[40];
  for (int digits = 0; digits <= 17; ++digits) {
    std::snprintf(written, sizeof written, "%.*e", digits, value);
    if (std::strtod(written, nullptr) == value) break;
  }
  std::string text = written;
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  std::string mantissa = text.substr(0, e), sign;
  if (mantissa[0] == '-') sign = "-", mantissa.erase(0, 1);
  if (exponent < -4 || exponent >= 16) return sign + mantissa + text.substr(e);
  std::erase(mantissa, '.');
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + mantissa;
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (mantissa.size() <= whole) return sign + mantissa + std::string(whole - mantissa.size(), '0') + ".0";
  return sign + mantissa.substr(0, whole) + "." + mantissa.substr(whole);
}

void append_repr(const Value& value, MarkedText& out) {
  if (value.is_text()) return append_quoted(value.text(), out);
  if (value.is_undefined()) return put(out, "Undefined");
  if (value.is_none()) return put(out, "None");
  if (const bool* truth = value.get<bool>()) return put(out, *truth ? "True" : "False");
  if (const int64_t* number = value.get<int64_t>()) return put(out, std::to_string(*number));
  if (const double* number = value.get<double>()) return put(out, real_text(*number));
  if (is_sequence(value)) {
    const List& list = value.list();
    const bool tuple = list.shape == Shape::tuple;
    put(out, tuple ? "(" : "[");
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) put(out, ", ");
      append_repr(list.items[i], out);
    }
    if (tuple && list.items.size() == 1) put(out, ",");
    return put(out, tuple ? ")" : "]");
  }
  if (value.is_dict()) {
    put(out, "{");
    for (const auto& [key, item] : value.dict().items) {
      if (&key != &value.dict().items[0].first) put(out, ", ");
      append_repr(key, out);
      put(out, ": ");
      append_repr(item, out);
    }
    return put(out, "}");
  }
  throw Error(std::string("the chat template prints ") + kind_name(value));
}

void append_str(const Value& value, MarkedText& out) {
  if (value.is_text()) return append(out, value.text());
  if (!value.is_undefined()) append_repr(value, out);
}

MarkedText str(const Value& value) {
  MarkedText out;
  append_str(value, out);
  return out;
}

void append_json(const Value& value, const JsonForm& form, MarkedText& out) {
  JsonWriter(form, out).write(value);
}

}  // namespace runner::templates
