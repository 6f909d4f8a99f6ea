#include "text/template_tree.h"

#include <algorithm>
#include <map>

#include "system/error.h"
#include "text/template_functions.h"

namespace runner::templates {
namespace {

constexpr size_t kAny = 1 << 20;
constexpr int kDeepest = 150;  // nodes within each other

// What a node is called, and how many names and parts it has.
struct Form {
  std::string_view name;
  Op op;
  size_t least_names, most_names, least_kids, most_kids;
};

constexpr Form kForms[] = {
    {"seq", Op::seq, 0, 0, 0, kAny},
    {"out", Op::out, 0, 0, 0, kAny},
    {"if", Op::branch, 0, 0, 2, kAny},
    {"for", Op::loop, 0, 0, 5, 5},  // target, list, test, body, else
    {"set", Op::set, 0, 0, 2, 2},
    {"macro", Op::macro, 1, kAny, 1, kAny},  // its name, parameters; body, the last parameters' defaults
    {"break", Op::stop, 0, 0, 0, 0},
    {"continue", Op::skip, 0, 0, 0, 0},
    {"name", Op::name, 1, 1, 0, 0},
    {"field", Op::field, 2, 2, 0, 0},
    {"attr", Op::attr, 1, 1, 1, 1},
    {"item", Op::item, 0, 0, 2, 2},
    {"slice", Op::slice, 0, 0, 4, 4},
    {"not", Op::negate, 0, 0, 1, 1},
    {"and", Op::both, 0, 0, 2, kAny},
    {"or", Op::either, 0, 0, 2, kAny},
    {"neg", Op::minus, 0, 0, 1, 1},
    {"pos", Op::plus, 0, 0, 1, 1},
    {"add", Op::add, 0, 0, 2, kAny},
    {"sub", Op::sub, 0, 0, 2, 2},
    {"mul", Op::mul, 0, 0, 2, 2},
    {"div", Op::div, 0, 0, 2, 2},
    {"floordiv", Op::floordiv, 0, 0, 2, 2},
    {"mod", Op::mod, 0, 0, 2, 2},
    {"pow", Op::power, 0, 0, 2, 2},
    {"concat", Op::concat, 0, 0, 1, kAny},
    {"compare", Op::compare, 1, kAny, 2, kAny},
    {"cond", Op::choose, 0, 0, 3, 3},
    {"list", Op::list, 0, 0, 0, kAny},
    {"tuple", Op::tuple, 0, 0, 0, kAny},
    {"dict", Op::dict, 0, 0, 0, kAny},  // key, value, key, value, ...
    {"filter", Op::filter, 1, 1, 1, kAny},
    {"test", Op::test, 1, 1, 1, kAny},
    {"method", Op::method, 1, 1, 1, kAny},
    {"map", Op::map, 1, 1, 1, kAny},
    {"select", Op::select, 1, 1, 1, kAny},
    {"reject", Op::reject, 1, 1, 1, kAny},
    {"selectattr", Op::selectattr, 1, 1, 2, kAny},
    {"rejectattr", Op::rejectattr, 1, 1, 2, kAny},
    {"call", Op::call, 1, kAny, 0, kAny},  // a macro, the last arguments' names
    {"namespace", Op::space, 0, kAny, 0, kAny},
    {"loop", Op::of_loop, 1, 1, 0, 0},
    {"raise", Op::raise, 0, 0, 1, 1},
    {"now", Op::now, 0, 0, 1, 1},
    {"range", Op::range, 0, 0, 3, 3},
    {"capture", Op::capture, 0, 0, 1, 1},
};

constexpr std::string_view kComparisons[] = {"eq", "ne", "lt", "lteq", "gt", "gteq", "in", "notin"};

[[noreturn]] void damaged(const std::string& what) {
  throw Error("the artifact's chat template is damaged: " + what + "; export the model again");
}

class Reader {
 public:
  Reader(std::vector<Node>& nodes, std::vector<std::string>& names) : nodes_(nodes), names_(names) {}

  void read(const Value& value) {
    if (!value.is_list() || value.list().items.empty() || !value.list().items[0].is_text()) {
      damaged("node " + std::to_string(nodes_.size()) + " is none");
    }
    const std::vector<Value>& items = value.list().items;
    const std::string_view name = items[0].bytes();
    if (name == "const") {
      if (items.size() != 2) damaged("a constant without a value");
      nodes_.push_back({.op = Op::constant, .constant = items[1]});
      depths_.push_back(1);
      return;
    }
    const auto form = std::ranges::find(kForms, name, &Form::name);
    if (form == std::end(kForms)) {
      throw Error("the artifact's chat template has '" + std::string(name) +
                  "', which this runner does not know; use the runner of the exporter's version");
    }
    Node node{.op = form->op};
    int depth = 0;
    for (size_t i = 1; i < items.size(); ++i) {
      if (items[i].is_text()) {
        node.names.push_back(number_of(items[i].bytes()));
      } else {
        node.kids.push_back(kid(items[i], depth));
      }
    }
    check_counts(*form, node);
    if (depth >= kDeepest) damaged("it is too deep");
    nodes_.push_back(std::move(node));
    depths_.push_back(depth + 1);
  }

 private:
  int32_t kid(const Value& value, int& depth) {
    const int64_t* index = value.get<int64_t>();
    if (index == nullptr || *index < -1 || *index >= std::ssize(nodes_)) damaged("a part is not before its whole");
    if (*index < 0) return -1;
    depth = std::max(depth, depths_[static_cast<size_t>(*index)]);
    return static_cast<int32_t>(*index);
  }

  uint32_t number_of(std::string_view name) {
    const auto [found, is_new] = numbers_.try_emplace(std::string(name), static_cast<uint32_t>(names_.size()));
    if (is_new) names_.emplace_back(name);
    return found->second;
  }

  void check_counts(const Form& form, Node& node) {
    const size_t names = node.names.size(), kids = node.kids.size();
    bool fits = names >= form.least_names && names <= form.most_names && kids >= form.least_kids && kids <= form.most_kids;
    const auto name = [&](size_t i) -> const std::string& { return names_[node.names[i]]; };
    if (fits) switch (form.op) {
      case Op::macro: fits = kids <= names; break;  // one name is the macro's, one part its body
      case Op::call: fits = names - 1 <= kids; break;
      case Op::space: fits = names == kids; break;
      case Op::dict: fits = kids % 2 == 0; break;
      case Op::compare:
        fits = names == kids - 1;
        for (size_t i = 0; fits && i < names; ++i) {
          const auto found = std::ranges::find(kComparisons, name(i));
          fits = found != std::end(kComparisons);
          node.compares.push_back(static_cast<uint8_t>(found - std::begin(kComparisons)));
        }
        break;
      case Op::filter:
      case Op::map: node.function = function_named(FunctionKind::filter, name(0), kids - 1); break;
      case Op::method: node.function = function_named(FunctionKind::method, name(0), kids - 1); break;
      case Op::test:
      case Op::select:
      case Op::reject: node.function = function_named(FunctionKind::test, name(0), kids - 1); break;
      case Op::selectattr:
      case Op::rejectattr: node.function = function_named(FunctionKind::test, name(0), kids - 2); break;
      default: break;
    }
    if (!fits) damaged("a node '" + std::string(form.name) + "' has too few parts or too many");
  }

  std::vector<Node>& nodes_;
  std::vector<std::string>& names_;
  std::vector<int> depths_;
  std::map<std::string, uint32_t> numbers_;
};

}  // namespace

Tree Tree::from_value(const Value& nodes) {
  if (!nodes.is_list() || nodes.list().items.empty()) damaged("it has no nodes");
  Tree tree;
  Reader reader(tree.nodes_, tree.names_);
  for (const Value& node : nodes.list().items) reader.read(node);
  return tree;
}

bool Tree::asks_for_day() const {
  return std::ranges::any_of(nodes_, [](const Node& node) { return node.op == Op::now; });
}

}  // namespace runner::templates
