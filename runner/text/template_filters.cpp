// Jinja's filters, with transformers' tojson. Source: jinja2/filters.py.

#include "text/template_filters.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "system/error.h"
#include "text/template_text.h"
#include "text/utf8.h"

namespace runner::templates {
namespace {

using Arguments = std::span<const Value>;

Value owned(MarkedView part) { return MarkedText{std::string(part.text), std::string(part.markup)}; }

// The value's text: what most filters begin with.
MarkedText text_of(Work& work, const Value& value) {
  work.spend_on(value);
  return str(value);
}

int64_t whole(const Value& value) {
  if (const auto number = value.integer()) return *number;
  throw Error(std::string("the chat template gives a filter ") + kind_name(value) + " for an integer");
}

Value trim(Work& work, const Value& value, Arguments a) {
  const MarkedText text = text_of(work, value);
  return owned(stripped(text.view(), Side::both, a[0]));
}

template <Case wanted>
Value cased(Work& work, const Value& value, Arguments) {
  return with_case(text_of(work, value).view(), wanted);
}

Value string(Work& work, const Value& value, Arguments) {
  return value.is_text() ? value : text_of(work, value);
}

Value count(Work& work, const Value& value, Arguments) {
  if (value.is_text()) {
    work.spend_on(value);
    return length(value.bytes());
  }
  if (value.is_list() && value.list().shape != Shape::once) return std::ssize(value.list().items);
  if (value.is_dict()) return std::ssize(value.dict().items);
  if (value.is_undefined()) return int64_t{0};
  throw Error(std::string("the chat template asks for the length of ") + kind_name(value));
}

Value or_default(Work&, const Value& value, Arguments a) {
  return value.is_undefined() || (is_true(a[1]) && !is_true(value)) ? a[0] : value;
}

Value list(Work& work, const Value& value, Arguments) { return list_value(items_of(work, value)); }

Value first(Work& work, const Value& value, Arguments) {
  const auto items = items_of(work, value);
  return items.empty() ? Value() : items.front();
}

Value last(Work& work, const Value& value, Arguments) {
  const auto items = items_of(work, value);
  return items.empty() ? Value() : items.back();
}

Value reverse(Work& work, const Value& value, Arguments) {
  auto items = items_of(work, value);
  std::ranges::reverse(items);
  if (!value.is_text()) return list_value(std::move(items), Shape::once);
  MarkedText text;
  for (const Value& each : items) append(text, each.text());
  return text;
}

Value join(Work& work, const Value& value, Arguments a) {
  const MarkedText between = text_of(work, a[0]);
  MarkedText out;
  bool begun = false;
  for (const Value& each : items_of(work, value)) {
    const Value part = a[1].is_none() ? each : at_path(work, each, a[1]);
    work.spend_on(part);
    work.spend_bytes(between.text.size());
    if (begun) append(out, between.view());
    append_str(part, out);
    begun = true;
  }
  return out;
}

Value replace(Work& work, const Value& value, Arguments a) {
  const MarkedText text = text_of(work, value), from = text_of(work, a[0]), to = text_of(work, a[1]);
  work.spend_bytes((text.text.size() + 1) * (to.text.size() + 1));  // more than there can be
  return replaced(text.view(), from.view(), to.view(), a[2].is_none() ? -1 : whole(a[2]));
}

Value indent(Work& work, const Value& value, Arguments a) {
  constexpr int64_t kWidest = 1000;
  const MarkedText text = text_of(work, value);
  const std::string margin = a[0].is_text() ? std::string(a[0].bytes())
                                            : std::string(static_cast<size_t>(std::clamp<int64_t>(whole(a[0]), 0, kWidest)), ' ');
  const auto lines = std::ranges::count(text.text, '\n');
  work.spend_bytes((static_cast<size_t>(lines) + 1) * margin.size());
  return indented(text.view(), margin, is_true(a[1]), is_true(a[2]));
}

Value to_json(Work& work, const Value& value, Arguments a) {
  constexpr int64_t kWidest = 64;
  JsonForm form;
  form.ensure_ascii = is_true(a[0]);
  form.sort_keys = is_true(a[3]);
  if (!a[1].is_none()) {
    form.indent = a[1].is_text() ? std::string(a[1].bytes())
                                 : std::string(static_cast<size_t>(std::clamp<int64_t>(whole(a[1]), 0, kWidest)), ' ');
    form.between = ",";
  }
  if (a[2].is_list() && a[2].list().items.size() == 2) {
    form.between = str(a[2].list().items[0]).text;
    form.after_key = str(a[2].list().items[1]).text;
  }
  const Extent extent = extent_of(value);
  const size_t margin = form.indent ? form.indent->size() : 0;
  work.spend(extent.weight * (1 + margin * static_cast<size_t>(extent.depth) / 16));
  MarkedText out;
  append_json(value, form, out);
  work.spend_bytes(out.text.size());
  return out;
}

Value pairs(Work& work, const Value& value, Arguments) {
  if (value.is_undefined()) return list_value({}, Shape::once);
  if (!value.is_dict()) throw Error(std::string("the chat template asks for the items of ") + kind_name(value));
  work.spend(value.dict().items.size());
  std::vector<Value> items;
  for (const auto& [key, held] : value.dict().items) items.push_back(list_value({key, held}, Shape::tuple));
  return list_value(std::move(items), Shape::once);
}

// What sort, unique, min and max compare: texts without regard to case, where asked.
Value sort_key(Work& work, const Value& value, const Value& path, bool with_case_of) {
  Value key = path.is_none() ? value : at_path(work, value, path);
  work.spend_on(key);
  return key.is_text() && !with_case_of ? Value(with_case(key.text(), Case::lower)) : key;
}

Value sorted(Work& work, std::vector<Value> items, const Value& path, bool reversed, bool with_case_of) {
  std::vector<std::pair<Value, Value>> keyed;
  uint64_t weight = 1, rounds = 1;
  for (const Value& each : items) {
    keyed.emplace_back(sort_key(work, each, path, with_case_of), each);
    weight += extent_of(keyed.back().first).weight;
  }
  for (size_t n = keyed.size(); n > 0; n /= 2) ++rounds;
  work.spend(weight * rounds);
  std::ranges::stable_sort(keyed, [&](const auto& a, const auto& b) {
    return reversed ? order(b.first, a.first) < 0 : order(a.first, b.first) < 0;
  });
  items.clear();
  for (auto& [key, each] : keyed) items.push_back(std::move(each));
  return list_value(std::move(items));
}

Value sort(Work& work, const Value& value, Arguments a) {
  return sorted(work, items_of(work, value), a[2], is_true(a[0]), is_true(a[1]));
}

Value dict_sort(Work& work, const Value& value, Arguments a) {
  if (value.is_undefined()) throw Error("the chat template sorts an undefined value");
  const Value items = pairs(work, value, {});
  const bool by_value = a[1].is_text() && a[1].bytes() == "value";
  return sorted(work, items.list().items, Value(int64_t{by_value}), is_true(a[2]), is_true(a[0]));
}

Value unique(Work& work, const Value& value, Arguments a) {
  std::vector<Value> seen, kept;
  for (const Value& each : items_of(work, value)) {
    Value key = sort_key(work, each, a[1], is_true(a[0]));
    work.spend(seen.size());
    const auto same = [&](const Value& other) {
      work.spend_on(other);
      return equals(other, key);
    };
    if (std::ranges::any_of(seen, same)) continue;
    seen.push_back(std::move(key));
    kept.push_back(each);
  }
  return list_value(std::move(kept), Shape::once);
}

template <int sign>
Value extreme(Work& work, const Value& value, Arguments a) {
  Value best, best_key;
  bool found = false;
  for (const Value& each : items_of(work, value)) {
    Value key = sort_key(work, each, a[1], is_true(a[0]));
    if (found && order(key, best_key) * sign <= 0) continue;
    best = each, best_key = std::move(key), found = true;
  }
  return best;
}

void check_defined(const Value& value) {
  if (value.is_undefined()) throw Error("the chat template makes a number of an undefined value");
}

Value to_integer(Work& work, const Value& value, Arguments a) {
  if (const auto number = value.integer()) return *number;
  check_defined(value);
  double real = NAN;
  if (value.is<double>()) real = value.real();
  if (value.is_text()) {
    work.spend_on(value);
    if (const auto number = parsed_integer(value.bytes())) return *number;
    real = parsed_real(value.bytes()).value_or(NAN);
  }
  return std::abs(real) < 9e18 ? Value(static_cast<int64_t>(real)) : a[0];
}

Value to_real(Work& work, const Value& value, Arguments a) {
  if (value.is_number()) return value.real();
  check_defined(value);
  work.spend_on(value);
  const auto real = value.is_text() ? parsed_real(value.bytes()) : std::nullopt;
  return real ? Value(*real) : a[0];
}

Value absolute(Work&, const Value& value, Arguments) {
  if (value.is<double>()) return std::abs(value.real());
  const int64_t number = whole(value);
  if (number == std::numeric_limits<int64_t>::min()) throw Error("the chat template makes an integer beyond 64 bits");
  return number < 0 ? -number : number;
}

Value mapped_attribute(Work& work, const Value& value, Arguments a) {
  std::vector<Value> found;
  if (!is_true(value)) return list_value({}, Shape::once);
  for (const Value& each : items_of(work, value)) {
    Value held = at_path(work, each, a[0]);
    found.push_back(held.is_undefined() && !a[1].is_none() ? a[1] : std::move(held));
  }
  return list_value(std::move(found), Shape::once);
}

// -- tests -----------------------------------------------------------------------------------------

bool is_whole(const Value& v) { return v.is<int64_t>(); }
bool is_iterable(const Value& v) { return v.is_text() || v.is_list() || v.is_dict() || v.is_undefined(); }
bool has_items(const Value& v) { return is_iterable(v) && (!v.is_list() || is_sequence(v)); }

template <auto holds>
Value tested(Work&, const Value& value, Arguments) { return holds(value); }

template <int least, int most>
Value ordered(Work& work, const Value& value, Arguments a) {
  work.spend_on(value);
  const int found = order(value, a[0]), sign = found < 0 ? -1 : found > 0;
  return sign >= least && sign <= most;
}

template <bool same>
Value equal_to(Work& work, const Value& value, Arguments a) {
  work.spend_on(value);
  return equals(value, a[0]) == same;
}

int64_t remainder(const Value& value, const Value& by) {
  const int64_t number = whole(value), divisor = whole(by);
  if (divisor == 0) throw Error("the chat template divides by 0");
  return divisor == -1 ? 0 : (number % divisor + divisor) % divisor;
}

}  // namespace

std::span<const NamedFunction> filters() {
  static constexpr NamedFunction table[] = {
      {"abs", 0, absolute},
      {"capitalize", 0, cased<Case::capital>},
      {"default", 2, or_default},  // value, boolean
      {"dictsort", 3, dict_sort},  // case_sensitive, by, reverse
      {"first", 0, first},
      {"float", 1, to_real},    // default
      {"indent", 3, indent},    // width, first, blank
      {"int", 1, to_integer},   // default
      {"items", 0, pairs},
      {"join", 2, join},        // between, attribute
      {"last", 0, last},
      {"length", 0, count},
      {"list", 0, list},
      {"lower", 0, cased<Case::lower>},
      {"map_attribute", 2, mapped_attribute},  // attribute, default
      {"max", 2, extreme<1>},   // case_sensitive, attribute
      {"min", 2, extreme<-1>},
      {"replace", 3, replace},  // old, new, count
      {"reverse", 0, reverse},
      {"sort", 3, sort},        // reverse, case_sensitive, attribute
      {"string", 0, string},
      {"tojson", 4, to_json},   // ensure_ascii, indent, separators, sort_keys
      {"trim", 1, trim},        // characters
      {"unique", 2, unique},    // case_sensitive, attribute
      {"upper", 0, cased<Case::upper>},
  };
  return table;
}

std::span<const NamedFunction> tests() {
  static constexpr NamedFunction table[] = {
      {"boolean", 0, tested<[](const Value& v) { return v.is<bool>(); }>},
      {"callable", 0, tested<[](const Value& v) {
         return v.is_undefined() || v.is<const Macro*>() || v.is<Method>();
       }>},
      {"defined", 0, tested<[](const Value& v) { return !v.is_undefined(); }>},
      {"divisibleby", 1, [](Work&, const Value& v, Arguments a) -> Value { return remainder(v, a[0]) == 0; }},
      {"eq", 1, equal_to<true>},
      {"even", 0, [](Work&, const Value& v, Arguments) -> Value { return remainder(v, int64_t{2}) == 0; }},
      {"false", 0, tested<[](const Value& v) { return v.is<bool>() && !*v.get<bool>(); }>},
      {"float", 0, tested<[](const Value& v) { return v.is<double>(); }>},
      {"ge", 1, ordered<0, 1>},
      {"gt", 1, ordered<1, 1>},
      {"in", 1, [](Work& work, const Value& v, Arguments a) -> Value { return contains(work, a[0], v); }},
      {"integer", 0, tested<is_whole>},
      {"iterable", 0, tested<is_iterable>},
      {"le", 1, ordered<-1, 0>},
      {"lt", 1, ordered<-1, -1>},
      {"mapping", 0, tested<[](const Value& v) { return v.is_dict(); }>},
      {"ne", 1, equal_to<false>},
      {"none", 0, tested<[](const Value& v) { return v.is_none(); }>},
      {"number", 0, tested<[](const Value& v) { return v.is_number(); }>},
      {"odd", 0, [](Work&, const Value& v, Arguments) -> Value { return remainder(v, int64_t{2}) == 1; }},
      {"sequence", 0, tested<has_items>},
      {"string", 0, tested<[](const Value& v) { return v.is_text(); }>},
      {"true", 0, tested<[](const Value& v) { return v.is<bool>() && *v.get<bool>(); }>},
      {"truth", 0, tested<is_true>},  // of select and the like without a test
      {"undefined", 0, tested<[](const Value& v) { return v.is_undefined(); }>},
  };
  return table;
}

}  // namespace runner::templates
