#include "text/template_functions.h"

#include <algorithm>

#include "system/error.h"
#include "text/template_filters.h"
#include "text/template_methods.h"
#include "text/template_text.h"
#include "text/utf8.h"

namespace runner::templates {
namespace {

[[noreturn]] void undefined_part(std::string_view name) {
  throw Error("the chat template asks an undefined value for '" + std::string(name) + "'");
}

}  // namespace

void Work::spend(uint64_t steps) {
  if (steps > left_) throw Error("the chat template takes too many steps or too much memory; shorten the conversation");
  left_ -= steps;
}

Function function_named(FunctionKind kind, std::string_view name, size_t n_arguments) {
  const std::span<const NamedFunction> known = kind == FunctionKind::filter ? filters()
                                               : kind == FunctionKind::test ? tests()
                                                                            : methods();
  for (const NamedFunction& each : known) {
    if (each.name != name) continue;
    if (each.n_arguments == n_arguments || each.n_arguments == kAnyNumber) return each.function;
    throw Error("the artifact's chat template is damaged: '" + std::string(name) + "' takes " +
                std::to_string(each.n_arguments) + " arguments; export the model again");
  }
  throw Error("the artifact's chat template uses '" + std::string(name) +
              "', which this runner does not know; use the runner of the exporter's version");
}

std::vector<Value> items_of(Work& work, const Value& value) {
  std::vector<Value> items;
  if (value.is_list()) {
    work.spend(value.list().items.size());
    items = value.list().items;
  } else if (value.is_dict()) {
    work.spend(value.dict().items.size());
    for (const auto& [key, unused] : value.dict().items) items.push_back(key);
  } else if (value.is_text()) {
    const MarkedView text = value.text();
    work.spend(text.text.size());
    for (size_t at = 0; at < text.text.size();) {
      const size_t size = utf8_length(text.text.substr(at));
      const MarkedView part = text.substr(at, size);
      items.push_back(MarkedText{std::string(part.text), std::string(part.markup)});
      at += size;
    }
  } else if (!value.is_undefined()) {
    throw Error(std::string("the chat template goes through ") + kind_name(value) + " as through a list");
  }
  return items;
}

Value attribute(const Value& value, std::string_view name) {
  if (value.is_undefined()) undefined_part(name);
  if (Space* const* space = value.get<Space*>()) {
    for (const auto& [key, held] : (*space)->attributes) {
      if (key == name) return held;
    }
    return {};
  }
  if (has_method(value, name)) return Method();
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(name)) return *found;
  }
  return {};
}

Value item(Work& work, const Value& value, const Value& key) {
  if (value.is_undefined()) undefined_part(key.is_text() ? key.bytes() : "an item");
  if (value.is_dict()) {
    work.spend(value.dict().items.size() / 8);
    if (const Value* found = value.dict().find(key)) return *found;
  }
  if (key.is_text()) {
    if (value.is<Space*>() || has_method(value, key.bytes())) return attribute(value, key.bytes());
    return {};
  }
  const std::optional<int64_t> index = key.integer();
  if (!index) return {};
  const auto place = [&](int64_t size) { return *index < 0 ? *index + size : *index; };
  if (is_sequence(value)) {
    const std::vector<Value>& items = value.list().items;
    const int64_t at = place(std::ssize(items));
    return at >= 0 && at < std::ssize(items) ? items[static_cast<size_t>(at)] : Value();
  }
  if (value.is_text()) {
    work.spend_bytes(value.bytes().size());
    const int64_t size = length(value.bytes()), at = place(size);
    if (at < 0 || at >= size) return {};
    const MarkedView part = characters(value.text(), at, at + 1);
    return MarkedText{std::string(part.text), std::string(part.markup)};
  }
  return {};
}

Value at_path(Work& work, Value value, const Value& path) {
  if (!path.is_text()) return item(work, value, path);
  std::string_view rest = path.bytes();
  while (true) {
    work.spend(1);
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    value = item(work, value, number ? Value(parsed_integer(part).value_or(0)) : text_value(part));
    if (dot == rest.size()) return value;
    rest.remove_prefix(dot + 1);
  }
}

bool contains(Work& work, const Value& list, const Value& value) {
  if (list.is_text()) {
    if (!value.is_text()) {
      throw Error(std::string("the chat template looks for ") + kind_name(value) + " in a string");
    }
    work.spend_on(list);
    return list.bytes().find(value.bytes()) != std::string_view::npos;
  }
  if (list.is_dict()) {
    work.spend(list.dict().items.size() / 8);
    return list.dict().find(value) != nullptr;
  }
  if (list.is_list()) {
    work.spend_on(list);
    return std::ranges::any_of(list.list().items, [&](const Value& each) { return equals(each, value); });
  }
  if (list.is_undefined()) return false;
  throw Error(std::string("the chat template looks for something in ") + kind_name(list));
}

}  // namespace runner::templates
