// Methods of Python's strings, dicts and lists.

#include "text/template_methods.h"

#include <algorithm>

#include "system/error.h"
#include "text/template_text.h"

namespace runner::templates {
namespace {

using Arguments = std::span<const Value>;

// Public attributes; a template that asks for one without calling it gets something true.
constexpr std::string_view kOfText =
    " capitalize casefold center count encode endswith expandtabs find format format_map index isalnum "
    "isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper "
    "join ljust lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex rjust "
    "rpartition rsplit rstrip split splitlines startswith strip swapcase title translate upper zfill ";
constexpr std::string_view kOfDict = " clear copy fromkeys get items keys pop popitem setdefault update values ";
constexpr std::string_view kOfList = " append clear copy count extend index insert pop remove reverse sort ";
constexpr std::string_view kOfTuple = " count index ";
constexpr std::string_view kOfInteger =
    " as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real to_bytes ";
constexpr std::string_view kOfReal = " as_integer_ratio conjugate fromhex hex imag is_integer real ";

[[noreturn]] void no_method(std::string_view name, const Value& value) {
  throw Error("the chat template calls '" + std::string(name) + "' of " + kind_name(value));
}

MarkedView text(std::string_view name, const Value& value) {
  if (!value.is_text()) no_method(name, value);
  return value.text();
}

std::string_view given_text(std::string_view name, const Value& value) {
  if (value.is_text()) return value.bytes();
  throw Error("the chat template gives '" + std::string(name) + "' " + kind_name(value) + " for a string");
}

int64_t given_number(std::string_view name, const Value& value) {
  if (const auto number = value.integer()) return *number;
  throw Error("the chat template gives '" + std::string(name) + "' " + kind_name(value) + " for a number");
}

Value owned(MarkedView part) { return MarkedText{std::string(part.text), std::string(part.markup)}; }

template <Side side>
Value strip(Work& work, const Value& value, Arguments a) {
  const MarkedView whole = text("strip", value);
  if (!a[0].is_none()) given_text("strip", a[0]);
  work.spend_bytes(whole.text.size() * (a[0].is_text() ? 1 + a[0].bytes().size() / 16 : 1));
  return owned(stripped(whole, side, a[0]));
}

template <bool from_right>
Value split_text(Work& work, const Value& value, Arguments a) {
  const MarkedView whole = text("split", value);
  if (!a[0].is_none()) given_text("split", a[0]);
  work.spend(1 + whole.text.size());
  return list_value(split(whole, a[0], given_number("split", a[1]), from_right));
}

Value lines(Work& work, const Value& value, Arguments a) {
  const MarkedView whole = text("splitlines", value);
  work.spend(1 + whole.text.size());
  return list_value(split_lines(whole, is_true(a[0])));
}

template <bool at_start>
Value begins_or_ends(Work& work, const Value& value, Arguments a) {
  const std::string_view whole = text("startswith", value).text;
  const auto fits = [&](const Value& part) {
    const std::string_view given = given_text("startswith", part);
    work.spend_bytes(given.size());
    return at_start ? whole.starts_with(given) : whole.ends_with(given);
  };
  if (a[0].is_list() && a[0].list().shape == Shape::tuple) return std::ranges::any_of(a[0].list().items, fits);
  return fits(a[0]);
}

Value replace(Work& work, const Value& value, Arguments a) {
  const MarkedView whole = text("replace", value);
  given_text("replace", a[0]), given_text("replace", a[1]);
  work.spend_bytes((whole.text.size() + 1) * (a[1].bytes().size() + 1));
  return replaced(whole, a[0].text(), a[1].text(), given_number("replace", a[2]));
}

template <Case wanted>
Value cased(Work& work, const Value& value, Arguments) {
  const MarkedView whole = text("lower", value);
  work.spend_bytes(whole.text.size());
  return with_case(whole, wanted);
}

template <bool from_right>
Value find(Work& work, const Value& value, Arguments a) {
  const std::string_view whole = text("find", value).text, part = given_text("find", a[0]);
  work.spend_bytes(whole.size());
  const size_t at = from_right ? whole.rfind(part) : whole.find(part);
  return at == whole.npos ? int64_t{-1} : length(whole.substr(0, at));
}

Value count(Work& work, const Value& value, Arguments a) {
  int64_t n = 0;
  if (is_sequence(value)) {
    work.spend_on(value);
    for (const Value& each : value.list().items) n += equals(each, a[0]);
    return n;
  }
  const std::string_view whole = text("count", value).text, part = given_text("count", a[0]);
  work.spend_bytes(whole.size());
  if (part.empty()) return length(whole) + 1;
  for (size_t at = 0; (at = whole.find(part, at)) != whole.npos; at += part.size()) ++n;
  return n;
}

template <bool from_right>
Value partition(Work& work, const Value& value, Arguments a) {
  const MarkedView whole = text("partition", value);
  const std::string_view by = given_text("partition", a[0]);
  if (by.empty()) throw Error("the chat template splits a text at an empty one");
  work.spend_bytes(whole.text.size());
  const size_t at = from_right ? whole.text.rfind(by) : whole.text.find(by);
  const Value empty = text_value("");
  if (at == whole.text.npos) {
    return from_right ? list_value({empty, empty, value}, Shape::tuple)
                      : list_value({value, empty, empty}, Shape::tuple);
  }
  const size_t end = at + by.size();
  return list_value({owned(whole.substr(0, at)), a[0], owned(whole.substr(end, whole.text.size() - end))},
                    Shape::tuple);
}

Value remove_prefix(Work& work, const Value& value, Arguments a) {
  const MarkedView whole = text("removeprefix", value);
  const std::string_view part = given_text("removeprefix", a[0]);
  work.spend_bytes(whole.text.size());
  return whole.text.starts_with(part) ? owned(whole.substr(part.size(), whole.text.size())) : value;
}

Value remove_suffix(Work& work, const Value& value, Arguments a) {
  const MarkedView whole = text("removesuffix", value);
  const std::string_view part = given_text("removesuffix", a[0]);
  work.spend_bytes(whole.text.size());
  return whole.text.ends_with(part) ? owned(whole.substr(0, whole.text.size() - part.size())) : value;
}

Value join(Work& work, const Value& value, Arguments a) {
  const MarkedView between = text("join", value);
  MarkedText out;
  bool begun = false;
  for (const Value& each : items_of(work, a[0])) {
    given_text("join", each);
    work.spend_bytes(each.bytes().size() + between.text.size());
    if (begun) append(out, between);
    append(out, each.text());
    begun = true;
  }
  return out;
}

Value format(Work& work, const Value& value, Arguments a) {
  const MarkedView whole = text("format", value);
  work.spend_bytes(whole.text.size());
  for (const Value& each : a) work.spend_on(each);
  return formatted(whole, {a.begin(), a.end()});
}

const Dict& dict(std::string_view name, const Value& value) {
  if (!value.is_dict()) no_method(name, value);
  return value.dict();
}

Value get(Work& work, const Value& value, Arguments a) {
  const Dict& from = dict("get", value);
  work.spend(from.items.size() / 8);
  const Value* found = from.find(a[0]);
  return found ? *found : a[1];
}

enum class Part { keys, values, items };
template <Part part>
Value parts(Work& work, const Value& value, Arguments) {
  const Dict& from = dict("items", value);
  work.spend(from.items.size());
  std::vector<Value> found;
  for (const auto& [key, held] : from.items) {
    found.push_back(part == Part::keys ? key : part == Part::values ? held : list_value({key, held}, Shape::tuple));
  }
  return list_value(std::move(found), Shape::view);
}

}  // namespace

std::span<const NamedFunction> methods() {
  static constexpr NamedFunction table[] = {
      {"capitalize", 0, cased<Case::capital>},
      {"count", 1, count},
      {"endswith", 1, begins_or_ends<false>},
      {"find", 1, find<false>},
      {"format", kAnyNumber, format},
      {"get", 2, get},  // key, default
      {"items", 0, parts<Part::items>},
      {"join", 1, join},
      {"keys", 0, parts<Part::keys>},
      {"lower", 0, cased<Case::lower>},
      {"lstrip", 1, strip<Side::left>},  // characters
      {"partition", 1, partition<false>},
      {"removeprefix", 1, remove_prefix},
      {"removesuffix", 1, remove_suffix},
      {"replace", 3, replace},  // old, new, count
      {"rfind", 1, find<true>},
      {"rpartition", 1, partition<true>},
      {"rsplit", 2, split_text<true>},  // separator, most cuts
      {"rstrip", 1, strip<Side::right>},
      {"split", 2, split_text<false>},
      {"splitlines", 1, lines},  // keep the ends
      {"startswith", 1, begins_or_ends<true>},
      {"strip", 1, strip<Side::both>},
      {"title", 0, cased<Case::title>},
      {"upper", 0, cased<Case::upper>},
      {"values", 0, parts<Part::values>},
  };
  return table;
}

bool has_method(const Value& value, std::string_view name) {
  if (name.empty() || name.find(' ') != name.npos) return false;
  const std::string_view names = value.is_text()                              ? kOfText
                                 : value.is_dict()                            ? kOfDict
                                 : is_sequence(value) ? (value.list().shape == Shape::tuple ? kOfTuple : kOfList)
                                 : value.is<bool>() || value.is<int64_t>()    ? kOfInteger
                                 : value.is<double>()                         ? kOfReal
                                                                              : std::string_view();
  const std::string padded = " " + std::string(name) + " ";
  return names.find(padded) != names.npos;
}

}  // namespace runner::templates
