#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template_value.h"

// Where a template's variables are while it is evaluated.
namespace runner::templates {

struct Loop {
  const std::vector<Value>& items;
  size_t index = 0;
};

struct Scope {
  Scope* outer = nullptr;
  const Loop* loop = nullptr;
  std::vector<std::pair<uint32_t, Value>> variables = {};  // by the number of their name
};

// A scope of its own, as long as this object lives.
class InScope {
 public:
  InScope(Scope*& current, Scope* outer, const Loop* loop = nullptr);
  ~InScope() { current_ = before_; }
  InScope(const InScope&) = delete;
  InScope& operator=(const InScope&) = delete;

  Scope scope;

 private:
  Scope*& current_;
  Scope* before_;
};

// Counts nodes within each other, macros included. Throws Error beyond 600.
class Level {
 public:
  explicit Level(int& depth);
  ~Level() { --depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  int& depth_;
};

void put(Scope& scope, uint32_t name, Value value);

// The innermost variable of that name; undefined where there is none.
Value look_up(const Scope* scope, uint32_t name);

const Loop* innermost_loop(const Scope* scope);  // null where there is none

// What Jinja's `loop` has: index, first, previtem, ... Throws Error for another name.
Value loop_field(const Loop& loop, std::string_view name);

}  // namespace runner::templates
