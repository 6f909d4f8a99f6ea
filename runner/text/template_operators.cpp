#include "text/template_operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "system/error.h"
#include "text/template_text.h"

namespace runner::templates {
namespace {

[[noreturn]] void unfit(const char* what, const Value& a, const Value& b) {
  throw Error(std::string("the chat template ") + what + " " + kind_name(a) + " and " + kind_name(b));
}

[[noreturn]] void too_large() { throw Error("the chat template makes an integer beyond 64 bits"); }
[[noreturn]] void by_zero() { throw Error("the chat template divides by 0"); }

// Whether both are integers; throws for what is no number.
bool whole(const char* what, const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) unfit(what, a, b);
  return a.integer() && b.integer();
}

int64_t floor_of(int64_t a, int64_t b) {
  if (b == 0) by_zero();
  if (b == -1) {
    if (a == std::numeric_limits<int64_t>::min()) too_large();
    return -a;
  }
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

MarkedText joined(MarkedView a, MarkedView b) {
  MarkedText text;
  text.text.reserve(a.text.size() + b.text.size());
  text.markup.reserve(a.text.size() + b.text.size());
  append(text, a);
  append(text, b);
  return text;
}

Value repeated(Work& work, const Value& value, int64_t times) {
  times = std::max<int64_t>(times, 0);
  const uint64_t weight = extent_of(value).weight;
  work.spend(static_cast<uint64_t>(times) > (uint64_t{1} << 40) / weight ? uint64_t{1} << 40
                                                                         : weight * static_cast<uint64_t>(times));
  if (value.is_text()) {
    MarkedText text;
    for (int64_t i = 0; i < times; ++i) append(text, value.text());
    return text;
  }
  std::vector<Value> items;
  const std::vector<Value>& once = value.list().items;
  for (int64_t i = 0; i < times; ++i) items.insert(items.end(), once.begin(), once.end());
  return list_value(std::move(items), value.list().shape);
}

}  // namespace

Value negative(const Value& value) {
  if (value.is<double>()) return -value.real();
  if (!value.is_number()) throw Error(std::string("the chat template negates ") + kind_name(value));
  int64_t number = 0;
  if (__builtin_sub_overflow(int64_t{0}, *value.integer(), &number)) too_large();
  return number;
}

Value added(Work& work, const Value& a, const Value& b) {
  if (a.is_text() && b.is_text()) {
    work.spend_bytes(a.bytes().size() + b.bytes().size());
    return joined(a.text(), b.text());
  }
  if (is_sequence(a) && is_sequence(b) && a.list().shape == b.list().shape) {
    work.spend(1 + a.list().items.size() + b.list().items.size());
    std::vector<Value> items = a.list().items;
    items.insert(items.end(), b.list().items.begin(), b.list().items.end());
    return list_value(std::move(items), a.list().shape);
  }
  if (!whole("adds", a, b)) return a.real() + b.real();
  int64_t sum = 0;
  if (__builtin_add_overflow(*a.integer(), *b.integer(), &sum)) too_large();
  return sum;
}

Value subtracted(const Value& a, const Value& b) {
  if (!whole("subtracts", a, b)) return a.real() - b.real();
  int64_t difference = 0;
  if (__builtin_sub_overflow(*a.integer(), *b.integer(), &difference)) too_large();
  return difference;
}

Value multiplied(Work& work, const Value& a, const Value& b) {
  if ((a.is_text() || is_sequence(a)) && b.integer()) return repeated(work, a, *b.integer());
  if ((b.is_text() || is_sequence(b)) && a.integer()) return repeated(work, b, *a.integer());
  if (!whole("multiplies", a, b)) return a.real() * b.real();
  int64_t product = 0;
  if (__builtin_mul_overflow(*a.integer(), *b.integer(), &product)) too_large();
  return product;
}

Value divided(const Value& a, const Value& b) {
  whole("divides", a, b);
  if (b.real() == 0) by_zero();
  return a.real() / b.real();
}

Value floor_divided(const Value& a, const Value& b) {
  if (whole("divides", a, b)) return floor_of(*a.integer(), *b.integer());
  if (b.real() == 0) by_zero();
  return std::floor(a.real() / b.real());
}

Value modulo(const Value& a, const Value& b) {
  if (whole("divides", a, b)) {
    const int64_t divisor = *b.integer();
    if (divisor == -1) return int64_t{0};
    return *a.integer() - floor_of(*a.integer(), divisor) * divisor;
  }
  if (b.real() == 0) by_zero();
  const double rest = std::fmod(a.real(), b.real());
  return rest != 0 && (rest < 0) != (b.real() < 0) ? rest + b.real() : rest;
}

Value raised(const Value& a, const Value& b) {
  if (!whole("raises", a, b) || *b.integer() < 0) return std::pow(a.real(), b.real());
  const int64_t base = *a.integer();
  int64_t power = 1, exponent = *b.integer();
  if (base == 0 || base == 1) return exponent == 0 ? int64_t{1} : base;
  if (base == -1) return exponent % 2 == 0 ? int64_t{1} : int64_t{-1};
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(power, base, &power)) too_large();
  }
  return power;
}

bool compared(Work& work, const Value& left, Comparison how, const Value& right) {
  if (how == kIn || how == kNotIn) return contains(work, right, left) == (how == kIn);
  work.spend(std::min(extent_of(left).weight, extent_of(right).weight));
  if (how == kEq || how == kNe) return equals(left, right) == (how == kEq);
  const int found = order(left, right);
  return how == kLt ? found < 0 : how == kLe ? found <= 0 : how == kGt ? found > 0 : found >= 0;
}

Value mapping(Work& work, const std::vector<Value>& values) {
  std::vector<std::pair<Value, Value>> items;
  for (size_t i = 0; i + 1 < values.size(); i += 2) {
    if (values[i].is_list() || values[i].is_dict()) throw Error("the chat template has a list for a key");
    work.spend(items.size() / 8);
    const auto same = std::ranges::find_if(items, [&](const auto& item) { return equals(item.first, values[i]); });
    if (same == items.end()) {
      items.emplace_back(values[i], values[i + 1]);
    } else {
      same->second = values[i + 1];
    }
  }
  return dict_value(std::move(items));
}

Value sliced(Work& work, const Value& value, const Value& begin, const Value& end, const Value& by) {
  const bool is_text = value.is_text();
  if (!is_text && !is_sequence(value)) {
    throw Error(std::string("the chat template takes a slice of ") + kind_name(value));
  }
  work.spend(1 + (is_text ? value.bytes().size() : value.list().items.size()));
  const int64_t size = is_text ? length(value.bytes()) : std::ssize(value.list().items);
  const auto number = [](const Value& given, int64_t otherwise) {
    if (given.is_none()) return otherwise;
    if (const auto found = given.integer()) return *found;
    throw Error(std::string("the chat template takes a slice by ") + kind_name(given));
  };
  const int64_t step = std::clamp<int64_t>(number(by, 1), -size - 1, size + 1);
  if (step == 0) throw Error("the chat template takes a slice by steps of 0");
  // As Python's slice.indices.
  const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
  const auto place = [&](const Value& given, int64_t otherwise) {
    const int64_t at = number(given, otherwise);
    if (given.is_none()) return at;
    return at < 0 ? std::max(at + size, low) : std::min(at, high);
  };
  const int64_t from = place(begin, step < 0 ? high : low), to = place(end, step < 0 ? low : high);
  if (is_text && step == 1) {
    const MarkedView part = characters(value.text(), from, to);
    return MarkedText{std::string(part.text), std::string(part.markup)};
  }
  const std::vector<Value> all = items_of(work, value);
  std::vector<Value> items;
  for (int64_t i = from; step > 0 ? i < to : i > to; i += step) items.push_back(all[static_cast<size_t>(i)]);
  if (!is_text) return list_value(std::move(items), value.list().shape);
  MarkedText text;
  for (const Value& each : items) append(text, each.text());
  return text;
}

Value numbers(Work& work, const Value& a, const Value& b, const Value& by) {
  constexpr int64_t kMost = 100'000;  // of Jinja's sandbox
  const auto number = [](const Value& given) {
    if (const auto found = given.integer()) return *found;
    throw Error(std::string("the chat template makes a range of ") + kind_name(given));
  };
  const int64_t begin = b.is_none() ? 0 : number(a), end = number(b.is_none() ? a : b);
  const int64_t step = by.is_none() ? 1 : number(by);
  if (step == 0) throw Error("the chat template makes a range of steps of 0");
  std::vector<Value> items;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (std::ssize(items) >= kMost) throw Error("the chat template makes a range of more than 100000 numbers");
    work.spend(1);
    items.push_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return list_value(std::move(items));
}

}  // namespace runner::templates
