#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace runner {

// `bias` is added to the logit of the last of `tokens` where the others are the text's last tokens.
struct TokenBias {
  std::vector<int32_t> tokens;
  float bias = 0;
  bool operator==(const TokenBias&) const = default;
};

// How the next token is chosen and what text ends a generation: what a caller asks for, what a
// model's authors recommend, or both put together. What is absent changes nothing. The names are
// those of transformers' GenerationConfig, where it has the setting.
struct SamplingSettings {
  using Number = std::optional<double>;
  using Ids = std::vector<int32_t>;

  Number repetition_penalty = {}, frequency_penalty = {}, presence_penalty = {};
  Number no_repeat_ngram_size = {};
  Number temperature = {}, top_k = {}, top_p = {}, min_p = {}, typical_p = {};
  std::optional<std::vector<TokenBias>> logit_bias = {};
  std::optional<std::vector<Ids>> bad_words_ids = {};  // each as if with a bias of -inf
  std::optional<Ids> begin_suppress_tokens = {};       // never the first token that is chosen
  std::optional<std::vector<std::string>> stop_strings = {};
};

// One setting that is a number: all that the command line, its help, artifacts and Python know of
// it. exporter/model/generation_settings.py holds the same rows.
struct NumberSetting {
  SamplingSettings::Number SamplingSettings::* member;
  const char* name;         // the long flag has dashes for its underscores
  const char* short_flag;   // "" for none
  const char* placeholder;  // of the value in the help
  double low, high;
  bool above_low;  // `low` itself is not taken
  bool whole;
  double neutral;  // changes nothing
  double example;
  const char* help;

  std::string flag() const;                           // --top-p
  bool allows(double value) const;                    // in range, and whole where it must be
  std::string wanted() const;                         // "a number from 0 to 1, such as 0.9"
  double of(const SamplingSettings& settings) const;  // its value there; neutral where absent
};

std::span<const NumberSetting> number_settings();

// What `choice` gives, and of the rest what `recommended` gives. Where it recommends neither a
// temperature nor a filter, these are this project's own: temperature 0.8, top_p 0.9.
SamplingSettings chosen_settings(const SamplingSettings& choice,
                                 const SamplingSettings& recommended);

// The flags that stand for the settings' numbers: "-t 0.8 -p 0.9", what changes nothing left out.
std::string flags_of(const SamplingSettings& settings);

// Throws Error for the first token of a bias or a ban that is not below `vocab_size`.
void check_tokens(const SamplingSettings& settings, int64_t vocab_size);

}  // namespace runner
