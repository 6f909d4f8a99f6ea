#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/template_tree.h"
#include "text/template_value.h"

// Filters, tests and methods of values. Arguments are by position and all there: the exporter puts in
// the defaults.
namespace runner::templates {

// What an evaluation may still do. All that takes time or memory is paid for before it is done.
class Work {
 public:
  explicit Work(uint64_t steps) : left_(steps) {}

  // Throws Error when it is used up.
  void spend(uint64_t steps);
  // For going through it: to print or to compare.
  void spend_on(const Value& value) { spend(extent_of(value).weight); }
  void spend_bytes(size_t bytes) { spend(1 + bytes / 16); }

 private:
  uint64_t left_;
};

enum class FunctionKind : uint8_t { filter, test, method };

// Throws Error for one that there is not, or that takes another number of arguments.
Function function_named(FunctionKind kind, std::string_view name, size_t n_arguments);

// The items of a value that can be looped over: of a dict its keys, of a text its characters. Throws
// Error for others.
std::vector<Value> items_of(Work& work, const Value& value);

// value.name and value[key] as Jinja's sandbox finds them; undefined where there is none. Throw Error
// for what is undefined itself.
Value attribute(const Value& value, std::string_view name);
Value item(Work& work, const Value& value, const Value& key);
// By a path of names and numbers, "function.name", as filters take it.
Value at_path(Work& work, Value value, const Value& path);

bool contains(Work& work, const Value& list, const Value& value);

}  // namespace runner::templates
