#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

// The pipeline components of a tokenizer.json, each read into flags of the canonical table. All
// throw Error, which names the component, for what the table does not express.
namespace runner {

// root[key], or null where there is none.
const nlohmann::json& part(const nlohmann::json& root, const char* key);

uint32_t normalizer_flags(const nlohmann::json& component);

struct PreTokenizer {
  uint32_t flags = 0;
  std::vector<std::string> splits;
};
// `no_spaces` says that the normalizer leaves none.
PreTokenizer pre_tokenizer(const nlohmann::json& component, bool no_spaces);

uint32_t decoder_flags(const nlohmann::json& component);

// Refuses normalizers and pre-tokenizers that do not go together.
void check_space_flags(uint32_t flags);

// The special token that is put before a text, if one is.
std::optional<std::string> bos_of_post_processor(const nlohmann::json& component);

}  // namespace runner
