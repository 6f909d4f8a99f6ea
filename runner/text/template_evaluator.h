#pragma once

#include <cstdint>
#include <ctime>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "text/template_tree.h"
#include "text/template_value.h"

namespace runner::templates {

// Which outcomes a node had, for the exporter: a condition that was true or false, a loop that had
// turns or none.
enum Outcome : uint8_t { kMetTrue = 1, kMetFalse = 2 };

struct Inputs {
  std::vector<std::pair<std::string, Value>> variables;
  std::tm now = {};                     // what strftime_now() tells
  std::vector<uint8_t>* met = nullptr;  // Outcomes of each node, added to; may be null
  uint64_t steps = 10'000'000;  // most, and some more for each that it takes to go through the variables
};

// What a template writes. It takes a bounded number of steps, and memory by that. Throws Error where
// the template refuses the conversation (raise_exception), fails, or takes too much.
MarkedText evaluate(const Tree& tree, const Inputs& inputs);

}  // namespace runner::templates
