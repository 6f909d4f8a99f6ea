#include "text/template_value.h"

#include <algorithm>

#include "system/error.h"

namespace runner::templates {
namespace {

constexpr int kDeepest = 200;  // lists and dicts within each other

constexpr uint64_t kHeaviest = uint64_t{1} << 40;

void add_part(Extent& extent, const Value& part) {
  const Extent inner = extent_of(part);
  extent.depth = std::max(extent.depth, inner.depth);
  extent.weight += inner.weight;
}

// What holds these parts.
Extent checked(Extent parts) {
  if (parts.depth >= kDeepest || parts.weight > kHeaviest) {
    throw Error("the chat template makes lists more than " + std::to_string(kDeepest) + " deep, or too large");
  }
  ++parts.depth;
  return parts;
}

[[noreturn]] void no_order(const Value& a, const Value& b) {
  throw Error(std::string("the chat template compares ") + kind_name(a) + " with " + kind_name(b));
}

}  // namespace

std::optional<int64_t> Value::integer() const {
  if (const bool* truth = get<bool>()) return *truth;
  if (const int64_t* number = get<int64_t>()) return *number;
  return std::nullopt;
}

double Value::real() const {
  if (const double* number = get<double>()) return *number;
  return static_cast<double>(integer().value_or(0));
}

const Value* Dict::find(const Value& key) const {
  if (key.is_text()) return find(key.bytes());
  if (!key.is_number() && !key.is_none()) return nullptr;
  for (const auto& [name, value] : items) {
    if (equals(name, key)) return &value;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name.is_text() && name.bytes() == key) return &value;
  }
  return nullptr;
}

Value text_value(std::string_view text, char mark) {
  MarkedText made;
  made.append(text, mark);
  return made;
}

Value list_value(std::vector<Value> items, Shape shape) {
  Extent extent;
  for (const Value& item : items) add_part(extent, item);
  return std::make_shared<const List>(List{std::move(items), shape, checked(extent)});
}

Value dict_value(std::vector<std::pair<Value, Value>> items) {
  Extent extent;
  for (const auto& [key, value] : items) {
    add_part(extent, key);
    add_part(extent, value);
  }
  return std::make_shared<const Dict>(Dict{std::move(items), checked(extent)});
}

Extent extent_of(const Value& value) {
  if (value.is_list()) return value.list().extent;
  if (value.is_dict()) return value.dict().extent;
  return {0, value.is_text() ? 1 + value.bytes().size() / 16 : 1};
}

const char* kind_name(const Value& value) {
  if (value.is_undefined()) return "an undefined value";
  if (value.is_none()) return "none";
  if (value.is<bool>()) return "a boolean";
  if (value.is<int64_t>()) return "an integer";
  if (value.is<double>()) return "a float";
  if (value.is_text()) return "a string";
  if (value.is_list()) {
    constexpr const char* kNames[] = {"a list", "a tuple", "a view of a mapping", "a generator"};
    return kNames[static_cast<size_t>(value.list().shape)];
  }
  if (value.is_dict()) return "a mapping";
  if (value.is<Space*>()) return "a namespace";
  return value.is<Method>() ? "a method" : "a macro";
}

bool is_sequence(const Value& value) { return value.is_list() && value.list().shape <= Shape::tuple; }

bool is_true(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_number()) return value.real() != 0;
  if (value.is_text()) return !value.bytes().empty();
  if (value.is_list()) return value.list().shape == Shape::once || !value.list().items.empty();
  if (value.is_dict()) return !value.dict().items.empty();
  return true;
}

bool equals(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is<double>() || b.is<double>()) return a.real() == b.real();
    return a.integer() == b.integer();
  }
  if (a.is_text() && b.is_text()) return a.bytes() == b.bytes();
  if (a.is_list() && b.is_list()) {
    return a.list().shape == b.list().shape && std::ranges::equal(a.list().items, b.list().items, equals);
  }
  if (a.is_dict() && b.is_dict()) {
    if (a.dict().items.size() != b.dict().items.size()) return false;
    return std::ranges::all_of(a.dict().items, [&](const auto& item) {
      const Value* other = b.dict().find(item.first);
      return other && equals(item.second, *other);
    });
  }
  if (a.is<Space*>() && b.is<Space*>()) return *a.get<Space*>() == *b.get<Space*>();
  return (a.is_undefined() && b.is_undefined()) || (a.is_none() && b.is_none());
}

int order(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is<double>() || b.is<double>()) {
      return a.real() < b.real() ? -1 : a.real() > b.real() ? 1 : 0;
    }
    return *a.integer() < *b.integer() ? -1 : *a.integer() > *b.integer();
  }
  if (a.is_text() && b.is_text()) return a.bytes().compare(b.bytes());  // UTF-8 is in order of code points
  if (is_sequence(a) && is_sequence(b) && a.list().shape == b.list().shape) {
    const auto &left = a.list().items, &right = b.list().items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equals(left[i], right[i])) return order(left[i], right[i]);
    }
    return left.size() < right.size() ? -1 : left.size() > right.size();
  }
  no_order(a, b);
}

}  // namespace runner::templates
