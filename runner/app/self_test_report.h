#pragma once

#include <cstdint>
#include <string>

#include "decode/self_test.h"

namespace runner {

// What a self-test ran on.
struct TestedOn {
  std::string model_path, isa;
  int threads = 0;
  int64_t peak_rss = 0;  // bytes
};

// The report of --self-test: lines for a person, or one JSON object of one line.
std::string self_test_lines(const SelfTest& test, const TestedOn& machine);
std::string self_test_json(const SelfTest& test, const TestedOn& machine);

}  // namespace runner
