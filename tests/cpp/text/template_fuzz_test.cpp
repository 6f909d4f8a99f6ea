// Trees and values of chat templates, changed at random: nothing may crash or go on without end, and only
// Error may come out. A thousand each by itself; scripts/fuzz_chat_trees.sh runs more, with sanitizers:
//
//   template_fuzz_test SEEDS N SEED    SEEDS: {"tree": [...], "variables": {...}} a line

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "system/error.h"
#include "tests/cpp/chat_trees.h"
#include "text/template_evaluator.h"

using nlohmann::json;
namespace templates = runner::templates;

namespace {

constexpr uint64_t kSteps = 200'000;
constexpr double kMostSeconds = 10;

class Changer {
 public:
  explicit Changer(uint64_t seed) : random_(seed) {}

  size_t below(size_t n) { return n == 0 ? 0 : random_() % n; }

  json scalar() {
    switch (below(12)) {
      case 0: return nullptr;
      case 1: return true;
      case 2: return false;
      case 3: return 0;
      case 4: return -1;
      case 5: return 1.5;
      case 6: return std::numeric_limits<int64_t>::min();
      case 7: return std::numeric_limits<int64_t>::max();
      case 8: return "";
      case 9: return "a\xc3\xa9\xe4\xb8\xad </think> b";
      case 10: return json::array({1, "x", nullptr});
      default: return json{{"role", "user"}, {"content", "x"}, {"items", 2}};
    }
  }

  // Changes one thing in a value, at any depth.
  void change(json& value) {
    json* at = &value;
    while ((at->is_array() || at->is_object()) && !at->empty() && below(4) != 0) {
      at = &*std::next(at->begin(), static_cast<std::ptrdiff_t>(below(at->size())));
    }
    if (at->is_array() && below(2) == 0) {
      at->push_back(at->empty() ? scalar() : json((*at)[below(at->size())]));
    } else if (at->is_object() && below(2) == 0) {
      (*at)[std::to_string(below(3))] = scalar();
    } else {
      *at = scalar();
    }
  }

  // Changes a node: its op, a name or a part, or the nodes' order and number.
  void change_tree(json& nodes, const std::vector<json>& others) {
    if (!nodes.is_array() || nodes.empty()) return;
    json& node = nodes[below(nodes.size())];
    switch (below(8)) {
      case 0: nodes.push_back(others[below(others.size())]); break;
      case 1: node = others[below(others.size())]; break;
      case 2: nodes.push_back(json::array({"out", below(nodes.size())})); break;
      case 3: nodes.push_back(json::array({"seq", below(nodes.size()), nodes.size() - 1})); break;
      case 4: change(nodes); break;
      default:
        if (!node.is_array() || node.empty()) return;
        json& part = node[below(node.size())];
        if (part.is_number()) {
          part = static_cast<int64_t>(below(nodes.size() + 1)) - 1;
        } else {
          const json& other = others[below(others.size())];
          if (other.is_array() && !other.empty()) part = other[below(other.size())];
        }
    }
  }

 private:
  std::mt19937_64 random_;
};

// The value of a JSON value, without a text in between.
templates::Value value_of(const json& given) {
  if (given.is_null()) return templates::None();
  if (given.is_boolean()) return given.get<bool>();
  if (given.is_number_float()) return given.get<double>();
  if (given.is_number()) return given.get<int64_t>();
  if (given.is_string()) return templates::text_value(given.get_ref<const std::string&>(), runner::kContent);
  if (given.is_array()) {
    std::vector<templates::Value> items;
    for (const json& item : given) items.push_back(value_of(item));
    return templates::list_value(std::move(items));
  }
  std::vector<std::pair<templates::Value, templates::Value>> items;
  for (const auto& [key, item] : given.items()) items.emplace_back(templates::text_value(key, runner::kContent), value_of(item));
  return templates::dict_value(std::move(items));
}

struct Counts {
  int64_t failed = 0, written = 0;
  double slowest = 0;
};

void run_one(const json& nodes, const json& variables, Counts& counts) {
  const auto start = std::chrono::steady_clock::now();
  try {
    const templates::Tree tree = templates::Tree::from_value(value_of(nodes));
    ++counts.failed;
    std::vector<uint8_t> met(tree.nodes().size());
    templates::Inputs inputs;
    inputs.met = &met;
    inputs.steps = kSteps;
    if (variables.is_object()) {
      for (const auto& [name, value] : variables.items()) inputs.variables.emplace_back(name, value_of(value));
    }
    const runner::MarkedText text = templates::evaluate(tree, inputs);
    if (text.text.size() != text.markup.size()) std::abort();
    --counts.failed, ++counts.written;
  } catch (const runner::Error&) {
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  counts.slowest = std::max(counts.slowest, seconds);
  if (seconds > kMostSeconds) {
    std::cerr << "it took " << seconds << " s: " << nodes.dump() << "\n" << variables.dump() << "\n";
    std::abort();
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<json> seeds;
  if (argc > 1) {
    std::ifstream file(argv[1]);
    for (std::string line; std::getline(file, line);) seeds.push_back(json::parse(line));
  } else {
    const json messages = {{{"role", "system"}, {"content", "S"}}, {{"role", "user"}, {"content", "u"}}};
    seeds.push_back({{"tree", json::parse(kTurns)["tree"]}, {"variables", {{"messages", messages}}}});
  }
  const int64_t n = argc > 2 ? std::atoll(argv[2]) : 1000;
  Changer changer(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  std::vector<json> nodes;  // of all seeds
  for (const json& seed : seeds) nodes.insert(nodes.end(), seed["tree"].begin(), seed["tree"].end());
  Counts counts;
  for (int64_t i = 0; i < n; ++i) {
    const json& seed = seeds[changer.below(seeds.size())];
    json tree = seed["tree"], variables = seed["variables"];
    for (size_t changes = changer.below(6); changes > 0; --changes) changer.change_tree(tree, nodes);
    for (size_t changes = changer.below(4); changes > 0; --changes) changer.change(variables);
    run_one(tree, variables, counts);
  }
  std::cout << n << " changed trees and values: " << counts.written << " written, " << counts.failed
            << " refused while they ran, the slowest " << counts.slowest << " s\n";
  return counts.written > 0 && counts.failed > 0 ? 0 : 1;
}
