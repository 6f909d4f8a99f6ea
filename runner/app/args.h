#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/lowbit.h"
#include "model/sampling_settings.h"

namespace runner {

enum class Mode { generate, chat };

// The command line, as given: absent flags are empty, so that the artifact's values can stand in.
struct Args : SamplingSettings {
  std::optional<uint64_t> seed;
  bool help = false;
  std::string model_path;
  bool own_model = false;  // in the program; the path is the program's name
  std::optional<int64_t> steps;
  std::optional<std::string> prompt, system_prompt;
  std::optional<bool> think;  // absent: as the template has it
  std::string tools_path;     // empty: none
  std::optional<std::tm> date;  // absent: the clock's
  std::string prompt_path;     // empty: see prompt
  std::string tokenizer_path;  // empty: the embedded tokenizer
  Mode mode = Mode::generate;
  std::optional<int> llama_version;
  int threads = 0;            // 0: see thread_count()
  int64_t prefill_chunk = 0;  // 0: the artifact's largest
  std::optional<int64_t> context_length;
  std::optional<lowbit::CacheType> cache_type;
  std::optional<std::vector<int32_t>> tokens;
  std::string logits_path;
  std::string key_path;  // of --require-signature
  bool ignore_eos = false, stats = false, json = false, tokenize = false, self_test = false, verbose = false;
};

// Parses the words after the program's name. `own_model` names the model of a program that has one in it
// and takes no other. Throws UsageError that names the value and the remedy.
Args parse_args(const std::vector<std::string>& words, const std::string& own_model = "");

// The text of --help; `own_model`: the program takes no model.
std::string help_text(std::string_view program, std::string_view backend, bool own_model = false);

}  // namespace runner
