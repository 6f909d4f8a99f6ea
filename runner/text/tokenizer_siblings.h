#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

// Added tokens and names of special tokens in the files beside a tokenizer file: tokenizer_config.json,
// special_tokens_map.json and added_tokens.json, as transformers reads them. Source: transformers 5.23,
// tokenization_utils_base.py (_from_pretrained) and tokenization_utils_tokenizers.py (TokenizersBackend.__init__).
namespace runner {

struct AddedEntry {
  std::string content;
  bool special = false, normalized = false, lstrip = false, rstrip = false, single_word = false;
  std::optional<uint32_t> id;  // what files say

  // But for the id.
  bool same_token(const AddedEntry& other) const;
};

struct Siblings {
  std::string bos_token, eos_token;  // "" where none is named
  std::optional<bool> add_bos_token, add_prefix_space, legacy;
  std::string tokenizer_class;
  std::vector<AddedEntry> listed;   // of added_tokens_decoder, or else of added_tokens.json
  std::vector<AddedEntry> named;    // special tokens with a name of their own
  std::vector<AddedEntry> unnamed;  // and further ones

  // What transformers adds to the tokens that a tokenizer file itself adds, in its order.
  std::vector<AddedEntry> additions(const std::vector<AddedEntry>& present) const;
};

// Reads what lies beside the tokenizer file `path`. Throws Error for damaged files.
Siblings read_siblings(const std::filesystem::path& path);

// The whole file. Throws Error, with a remedy and without the file's name.
std::string read_file(const std::filesystem::path& path);

// Ids as `tokenizers` gives them to added tokens: a known text's own, else the next one.
class AddedIds {
 public:
  using Vocabulary = std::unordered_map<std::string, uint32_t>;
  // New tokens get ids from `n_pieces` on. `vocabulary` must outlive it.
  AddedIds(const Vocabulary& vocabulary, size_t n_pieces)
      : vocabulary_(vocabulary), n_pieces_(static_cast<uint32_t>(n_pieces)) {}

  // Adds the tokens in order. Throws Error where files say another id.
  void add(const std::vector<AddedEntry>& tokens);
  // All that were added, each with its id, in the order of ids.
  const std::map<uint32_t, AddedEntry>& tokens() const { return tokens_; }

 private:
  const Vocabulary& vocabulary_;
  uint32_t n_pieces_;
  Vocabulary added_;
  std::map<uint32_t, AddedEntry> tokens_;
};

}  // namespace runner
