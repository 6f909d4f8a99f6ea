#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "text/tokenizer_raw.h"

// Tokenizers in JSON, and the pipeline components of a tokenizer.json, each read into flags of the canonical table.
// All throw Error, which names the component, for what the table does not express, and nlohmann's exceptions for
// what is no such file.
namespace runner {

RawTokenizer read_huggingface(const nlohmann::json& tokenizer_json, const Siblings& siblings);
RawTokenizer read_tekken(const nlohmann::json& tekken_json);

// root[key], or null where there is none.
const nlohmann::json& part(const nlohmann::json& root, const char* key);

struct Normalizer {
  uint32_t flags = 0;
  std::vector<TableSource::Replacement> replacements;
};
Normalizer normalizer(const nlohmann::json& component);

struct PreTokenizer {
  uint32_t flags = 0;
  std::vector<std::string> splits;
  std::vector<SplitKind> kinds;  // of the splits
};
// `no_spaces` says that the normalizer leaves none.
PreTokenizer pre_tokenizer(const nlohmann::json& component, bool no_spaces);

uint32_t decoder_flags(const nlohmann::json& component);

// Refuses normalizers, pre-tokenizers and models that do not go together.
void check_flags(uint32_t flags);

// The special tokens that are put before a text. Those that end one are left out: a prompt goes on.
std::vector<std::string> prefix_of_post_processor(const nlohmann::json& component);

}  // namespace runner
