#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/template_value.h"

// A chat template's tree, as the exporter stores it (exporter/chat/tree.py, docs/artifact.md).
namespace runner::templates {

enum class Op : uint8_t {
  // statements
  seq, out, branch, loop, set, macro, stop, skip,
  // what is set
  name, field,
  // expressions
  constant, attr, item, slice, negate, both, either, minus, plus, add, sub, mul, div, floordiv, mod, power, concat,
  compare, choose, list, tuple, dict, filter, test, method, map, select, reject, selectattr, rejectattr,
  call, space, of_loop, raise, now, range, capture,
};

class Work;
using Function = Value (*)(Work& work, const Value& subject, std::span<const Value> arguments);

struct Node {
  Op op;
  std::vector<int32_t> kids = {};      // nodes before this one; -1: none
  std::vector<uint32_t> names = {};    // of Tree::names
  Value constant = {};                 // of Op::constant
  Function function = nullptr;         // of filters, tests and methods
  std::vector<uint8_t> compares = {};  // operators of Op::compare, one for each kid but the first
};

enum Comparison : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

// Const after construction. Each node's parts lie before it, so that there are no circles.
class Tree {
 public:
  // `nodes` is a list of [op, ...]; the last node is the whole. Throws Error for anything that is not
  // such a tree.
  static Tree from_value(const Value& nodes);

  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<std::string>& names() const { return names_; }
  // Whether it asks for the present day.
  bool asks_for_day() const;

 private:
  std::vector<Node> nodes_;
  std::vector<std::string> names_;
};

}  // namespace runner::templates
