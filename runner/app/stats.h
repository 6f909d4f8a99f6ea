#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "decode/generate.h"

namespace runner {

// What --stats reports, summed over the turns of a chat.
struct Stats {
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  double load_seconds = 0;
  double first_token_seconds = -1;  // since `start`; negative: there was no token
  int64_t prompt_tokens = 0;
  double prefill_seconds = 0;
  int64_t generated_tokens = 0;
  int64_t decode_forwards = 0;
  double decode_seconds = 0;
  int threads = 0;
  std::string isa;

  void note_token();  // call it as soon as a token is chosen
  void add(const GenerateResult& result);
};

std::string stats_line(const Stats& stats, int64_t peak_rss);
std::string stats_json(const Stats& stats, int64_t peak_rss);  // null for what was not measured

}  // namespace runner
