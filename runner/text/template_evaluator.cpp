#include "text/template_evaluator.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "system/error.h"
#include "text/template_functions.h"
#include "text/template_operators.h"
#include "text/template_scope.h"

namespace runner::templates {

struct Macro {
  const Node* node;
};

namespace {

enum class Flow { on, stop, skip };

class Evaluation {
 public:
  Evaluation(const Tree& tree, const Inputs& inputs)
      : tree_(tree), inputs_(inputs), work_(steps_for(inputs)) {
    for (const auto& [name, value] : inputs.variables) {
      const auto found = std::ranges::find(tree.names(), name);
      if (found == tree.names().end()) continue;
      root_.variables.emplace_back(static_cast<uint32_t>(found - tree.names().begin()), value);
    }
  }

  MarkedText run() {
    out_ = &text_;
    run(static_cast<int32_t>(tree_.nodes().size()) - 1);
    return std::move(text_);
  }

 private:
  static uint64_t steps_for(const Inputs& inputs) {
    uint64_t steps = inputs.steps;
    for (const auto& [name, value] : inputs.variables) steps += 4 * extent_of(value).weight;
    return steps;
  }

  const Node& node(int32_t index) const { return tree_.nodes()[static_cast<size_t>(index)]; }
  const std::string& name_of(const Node& n, size_t i = 0) const { return tree_.names()[n.names[i]]; }

  void note(int32_t index, bool outcome) {
    if (inputs_.met) (*inputs_.met)[static_cast<size_t>(index)] |= outcome ? kMetTrue : kMetFalse;
  }

  // -- statements ----------------------------------------------------------------------------------

  Flow run(int32_t index) {
    if (index < 0) return Flow::on;
    const Level level(depth_);
    work_.spend(1);
    const Node& n = node(index);
    switch (n.op) {
      case Op::seq:
        for (const int32_t kid : n.kids) {
          if (const Flow flow = run(kid); flow != Flow::on) return flow;
        }
        return Flow::on;
      case Op::out:
        for (const int32_t kid : n.kids) print(eval(kid));
        return Flow::on;
      case Op::branch: return run_branch(n);
      case Op::loop: return run_loop(n, index);
      case Op::set: assign(node(checked(n.kids[0])), eval(n.kids[1])); return Flow::on;
      case Op::macro:
        macros_.push_back({&n});
        put(*scope_, n.names[0], &std::as_const(macros_.back()));
        return Flow::on;
      case Op::stop: return Flow::stop;
      case Op::skip: return Flow::skip;
      default: damaged();
    }
  }

  Flow run_branch(const Node& n) {
    for (size_t i = 0; i + 1 < n.kids.size(); i += 2) {
      if (condition(n.kids[i])) return run(n.kids[i + 1]);
    }
    return n.kids.size() % 2 == 1 ? run(n.kids.back()) : Flow::on;
  }

  Flow run_loop(const Node& n, int32_t index) {
    const Node& target = node(checked(n.kids[0]));
    std::vector<Value> items = items_of(work_, eval(n.kids[1]));
    if (n.kids[2] >= 0) {
      std::erase_if(items, [&](const Value& item) {
        const InScope inner(scope_, scope_);
        assign(target, item);
        return !condition(n.kids[2]);
      });
    }
    note(index, !items.empty());
    if (items.empty()) {
      const InScope inner(scope_, scope_);
      return run(n.kids[4]);
    }
    Loop loop{items};
    for (; loop.index < items.size(); ++loop.index) {
      InScope inner(scope_, scope_, &loop);
      assign(target, items[loop.index]);
      if (run(n.kids[3]) == Flow::stop) break;
    }
    return Flow::on;
  }

  void print(const Value& value) {
    work_.spend_on(value);
    append_str(value, *out_);
  }

  void assign(const Node& target, const Value& value) {
    work_.spend(1);
    if (target.op == Op::name) return put(*scope_, target.names[0], value);
    if (target.op == Op::field) return assign_field(target, value);
    if (target.op != Op::tuple) damaged();
    const std::vector<Value> items = items_of(work_, value);
    if (items.size() != target.kids.size()) {
      throw Error("the chat template unpacks " + std::to_string(items.size()) + " values as " +
                  std::to_string(target.kids.size()));
    }
    for (size_t i = 0; i < items.size(); ++i) {
      const Node& part = node(checked(target.kids[i]));
      if (part.op != Op::name) damaged();
      put(*scope_, part.names[0], items[i]);
    }
  }

  void assign_field(const Node& target, const Value& value) {
    const Value owner = look_up(scope_, target.names[0]);
    Space* const* space = owner.get<Space*>();
    if (space == nullptr) throw Error("the chat template sets a field of " + std::string(kind_name(owner)));
    const std::string& name = name_of(target, 1);
    for (auto& [key, held] : (*space)->attributes) {
      if (key == name) {
        held = value;
        return;
      }
    }
    (*space)->attributes.emplace_back(name, value);
  }

  // What `body` writes, in a scope of its own.
  Value captured(int32_t body, Scope* outer) {
    const InScope inner(scope_, outer);
    return written(body);
  }

  Value written(int32_t body) {
    MarkedText text;
    MarkedText* const before = std::exchange(out_, &text);
    try {
      run(body);
    } catch (...) {
      out_ = before;
      throw;
    }
    out_ = before;
    return text;
  }

  // -- expressions ---------------------------------------------------------------------------------

  bool condition(int32_t index) {
    const bool outcome = is_true(eval(index));
    if (index >= 0) note(index, outcome);
    return outcome;
  }

  Value eval(int32_t index) {
    if (index < 0) return {};
    const Level level(depth_);
    work_.spend(1);
    const Node& n = node(index);
    switch (n.op) {
      case Op::constant: return n.constant;
      case Op::name: return look_up(scope_, n.names[0]);
      case Op::attr: return attribute(paid(eval(n.kids[0])), name_of(n));
      case Op::item: return eval_item(n);
      case Op::slice: return sliced(work_, eval(n.kids[0]), eval_or_none(n.kids[1]), eval_or_none(n.kids[2]), eval_or_none(n.kids[3]));
      case Op::negate: return !condition(n.kids[0]);
      case Op::both:
      case Op::either: return eval_logic(n);
      case Op::minus: return negative(eval(n.kids[0]));
      case Op::plus: return subtracted(negative(int64_t{0}), negative(eval(n.kids[0])));
      case Op::add: return eval_sum(n);
      case Op::sub: return subtracted(eval(n.kids[0]), eval(n.kids[1]));
      case Op::mul: return multiplied(work_, eval(n.kids[0]), eval(n.kids[1]));
      case Op::div: return divided(eval(n.kids[0]), eval(n.kids[1]));
      case Op::floordiv: return floor_divided(eval(n.kids[0]), eval(n.kids[1]));
      case Op::mod: return modulo(eval(n.kids[0]), eval(n.kids[1]));
      case Op::power: return raised(eval(n.kids[0]), eval(n.kids[1]));
      case Op::concat: return eval_concat(n);
      case Op::compare: return eval_compare(n);
      case Op::choose: return condition(n.kids[0]) ? eval(n.kids[1]) : eval(n.kids[2]);
      case Op::list:
      case Op::tuple: return eval_list(n);
      case Op::dict: return eval_dict(n);
      case Op::filter:
      case Op::test:
      case Op::method: return eval_function(n);
      case Op::map:
      case Op::select:
      case Op::reject:
      case Op::selectattr:
      case Op::rejectattr: return eval_each(n);
      case Op::call: return eval_call(n);
      case Op::space: return eval_space(n);
      case Op::of_loop: return eval_loop(n);
      case Op::raise: throw Error("this model's chat template refuses the conversation: " + str(paid(eval(n.kids[0]))).text);
      case Op::now: return time_text(eval(n.kids[0]));
      case Op::range: return numbers(work_, eval(n.kids[0]), eval_or_none(n.kids[1]), eval_or_none(n.kids[2]));
      case Op::capture: return captured(n.kids[0], scope_);
      default: damaged();
    }
  }

  Value paid(Value value) {
    work_.spend(value.is_dict() ? value.dict().items.size() / 8 : 0);
    return value;
  }

  Value eval_or_none(int32_t index) { return index < 0 ? Value(None()) : eval(index); }

  std::vector<Value> eval_all(std::span<const int32_t> kids) {
    std::vector<Value> values;
    for (const int32_t kid : kids) values.push_back(eval(kid));
    return values;
  }

  Value eval_item(const Node& n) {
    const Value owner = eval(n.kids[0]);
    return item(work_, owner, eval(n.kids[1]));
  }

  Value eval_logic(const Node& n) {
    Value value;
    for (const int32_t kid : n.kids) {
      value = eval(kid);
      const bool outcome = is_true(value);
      if (kid >= 0) note(kid, outcome);
      if (outcome == (n.op == Op::either)) break;
    }
    return value;
  }

  Value eval_sum(const Node& n) {
    Value sum = eval(n.kids[0]);
    for (size_t i = 1; i < n.kids.size(); ++i) sum = added(work_, sum, eval(n.kids[i]));
    return sum;
  }

  Value eval_concat(const Node& n) {
    MarkedText text;
    for (const int32_t kid : n.kids) {
      const Value part = eval(kid);
      work_.spend_on(part);
      append_str(part, text);
    }
    return text;
  }

  Value eval_compare(const Node& n) {
    Value left = eval(n.kids[0]);
    for (size_t i = 0; i < n.compares.size(); ++i) {
      Value right = eval(n.kids[i + 1]);
      if (!compared(work_, left, static_cast<Comparison>(n.compares[i]), right)) return false;
      left = std::move(right);
    }
    return true;
  }

  Value eval_list(const Node& n) { return list_value(holdable(eval_all(n.kids)), n.op == Op::tuple ? Shape::tuple : Shape::list); }

  // A namespace in a list would be a way to circles.
  static std::vector<Value> holdable(std::vector<Value> values) {
    if (std::ranges::any_of(values, [](const Value& value) { return value.is<Space*>(); })) {
      throw Error("the chat template puts a namespace into a list");
    }
    return values;
  }

  Value eval_dict(const Node& n) { return mapping(work_, holdable(eval_all(n.kids))); }

  Value eval_function(const Node& n) {
    const std::vector<Value> values = eval_all(n.kids);
    return n.function(work_, values[0], std::span(values).subspan(1));
  }

  // map, select and reject, and the last two by an attribute.
  Value eval_each(const Node& n) {
    const std::vector<Value> values = eval_all(n.kids);
    const bool by_attribute = n.op == Op::selectattr || n.op == Op::rejectattr;
    const auto arguments = std::span(values).subspan(by_attribute ? 2 : 1);
    std::vector<Value> kept;
    if (!is_true(values[0])) return list_value({}, Shape::once);
    for (const Value& each : items_of(work_, values[0])) {
      work_.spend(1);
      Value found = n.function(work_, by_attribute ? at_path(work_, each, values[1]) : each, arguments);
      if (n.op == Op::map) {
        kept.push_back(std::move(found));
      } else if (is_true(found) == (n.op == Op::select || n.op == Op::selectattr)) {
        kept.push_back(each);
      }
    }
    return list_value(holdable(std::move(kept)), Shape::once);
  }

  Value eval_call(const Node& n) {
    const Value callee = look_up(scope_, n.names[0]);
    const Macro* const* macro = callee.get<const Macro*>();
    if (macro == nullptr) throw Error("the chat template calls '" + name_of(n) + "', which is " + kind_name(callee));
    const Node& called = *(*macro)->node;
    const size_t n_parameters = called.names.size() - 1, n_named = n.names.size() - 1;
    const size_t n_placed = n.kids.size() - n_named, n_defaults = called.kids.size() - 1;
    if (n_placed > n_parameters) throw Error("the chat template gives '" + name_of(n) + "' too many arguments");
    std::vector<Value> values = eval_all(n.kids);
    InScope inner(scope_, &root_);
    for (size_t i = 0; i < n_parameters; ++i) {
      const uint32_t parameter = called.names[i + 1];
      const auto named = std::find(n.names.begin() + 1, n.names.end(), parameter);
      if (i < n_placed) {
        inner.scope.variables.emplace_back(parameter, std::move(values[i]));
      } else if (named != n.names.end()) {
        const auto at = n_placed + static_cast<size_t>(named - n.names.begin() - 1);
        inner.scope.variables.emplace_back(parameter, std::move(values[at]));
      } else {
        const size_t from_end = n_parameters - i;
        Value value = from_end <= n_defaults ? eval(called.kids[called.kids.size() - from_end]) : Value();
        inner.scope.variables.emplace_back(parameter, std::move(value));
      }
    }
    return written(called.kids[0]);
  }

  Value eval_space(const Node& n) {
    Space& space = spaces_.emplace_back();
    for (size_t i = 0; i < n.names.size(); ++i) space.attributes.emplace_back(name_of(n, i), eval(n.kids[i]));
    return &space;
  }

  Value eval_loop(const Node& n) {
    if (const Loop* loop = innermost_loop(scope_)) return loop_field(*loop, name_of(n));
    throw Error("the chat template asks for loop." + name_of(n) + " outside of a loop");
  }

  Value time_text(const Value& format) {
    if (!format.is_text()) throw Error("the chat template asks for the time without a format");
    char text[256];
    const std::string pattern(format.bytes());
    const size_t size = std::strftime(text, sizeof text, pattern.c_str(), &inputs_.now);
    return text_value({text, size});
  }

  static int32_t checked(int32_t index) {
    if (index < 0) damaged();
    return index;
  }

  [[noreturn]] static void damaged() {
    throw Error("the artifact's chat template is damaged: a node is in a wrong place; export the model again");
  }

  const Tree& tree_;
  const Inputs& inputs_;
  Work work_;
  Scope root_;
  Scope* scope_ = &root_;
  MarkedText text_;
  MarkedText* out_ = nullptr;
  std::deque<Macro> macros_;
  std::deque<Space> spaces_;
  int depth_ = 0;
};

}  // namespace

MarkedText evaluate(const Tree& tree, const Inputs& inputs) {
  return Evaluation(tree, inputs).run();
}

}  // namespace runner::templates
