#include "text/template_scope.h"

#include "system/error.h"

namespace runner::templates {
namespace {

constexpr int kDeepest = 600;

}  // namespace

InScope::InScope(Scope*& current, Scope* outer, const Loop* loop)
    : scope{outer, loop}, current_(current), before_(current) {
  current_ = &scope;
}

Level::Level(int& depth) : depth_(depth) {
  if (depth_ >= kDeepest) throw Error("the chat template goes too deep");
  ++depth_;
}

void put(Scope& scope, uint32_t name, Value value) {
  for (auto& [known, held] : scope.variables) {
    if (known == name) {
      held = std::move(value);
      return;
    }
  }
  scope.variables.emplace_back(name, std::move(value));
}

Value look_up(const Scope* scope, uint32_t name) {
  for (; scope; scope = scope->outer) {
    for (const auto& [known, value] : scope->variables) {
      if (known == name) return value;
    }
  }
  return {};
}

const Loop* innermost_loop(const Scope* scope) {
  while (scope && !scope->loop) scope = scope->outer;
  return scope ? scope->loop : nullptr;
}

Value loop_field(const Loop& loop, std::string_view name) {
  const auto index = static_cast<int64_t>(loop.index);
  const int64_t size = std::ssize(loop.items);
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return size - index;
  if (name == "revindex0") return size - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == size;
  if (name == "length") return size;
  if (name == "depth") return 1;  // Jinja counts recursive loops alone
  if (name == "depth0") return 0;
  if (name == "previtem") return index == 0 ? Value() : loop.items[loop.index - 1];
  if (name == "nextitem") return index + 1 == size ? Value() : loop.items[loop.index + 1];
  throw Error("the chat template asks for loop." + std::string(name) +
              ", which this runner does not know; use the runner of the exporter's version");
}

}  // namespace runner::templates
