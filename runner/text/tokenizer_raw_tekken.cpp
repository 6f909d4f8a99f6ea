// Mistral's tekken.json: a pattern, ranks of byte strings, and special tokens, whose ids come first. Source:
// mistral-common, tokens/tokenizers/tekken.py.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "system/error.h"
#include "text/base64.h"
#include "text/tokenizer_json_parts.h"

namespace runner {
namespace {

using nlohmann::json;

constexpr uint64_t kMostTokens = 1u << 24;  // float32 tells so many ranks apart
constexpr size_t kMostSpecial = 1u << 16;   // those that a file does not list are made

// Versions whose files need not list the special tokens, and those that are meant then.
constexpr std::string_view kOldVersions[] = {"v1", "v2", "v3", "v7"};
constexpr const char* kSpecialOfOldFiles[] = {
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"};

[[noreturn]] void fail(const std::string& what) { throw Error("not a tekken.json, or a damaged one: " + what); }

size_t count_of(const json& config, const char* key) {
  const json& value = config.at(key);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMostTokens) {
    fail(std::string(key) + " is " + value.dump());
  }
  return value.get<size_t>();
}

std::vector<std::string> special_tokens(const json& root, size_t count) {
  std::vector<std::string> names;
  const auto listed = root.find("special_tokens");
  if (listed == root.end() || listed->is_null()) {
    const auto version = root.at("config").value("version", "");
    if (std::find(std::begin(kOldVersions), std::end(kOldVersions), version) == std::end(kOldVersions)) {
      fail("it lists no special tokens, and its version is '" + version + "'");
    }
    names.assign(std::begin(kSpecialOfOldFiles), std::end(kSpecialOfOldFiles));
  } else {
    for (const json& token : *listed) {
      if (token.at("rank") != names.size()) fail("special token " + token.dump() + " is not that of its rank");
      names.push_back(token.at("token_str").get<std::string>());
    }
  }
  if (names.size() > count) {
    fail("it has " + std::to_string(names.size()) + " special tokens, and says " + std::to_string(count));
  }
  while (names.size() < count) names.push_back("<SPECIAL_" + std::to_string(names.size()) + ">");
  if (std::unordered_set<std::string>(names.begin(), names.end()).size() != count) {
    fail("a special token is there twice");
  }
  return names;
}

// The byte strings of the first `count` ranks; further ones are not used.
std::vector<std::string> ranked_pieces(const json& vocab, size_t count) {
  if (!vocab.is_array() || vocab.size() < count) fail("its vocabulary has fewer tokens than its size says");
  std::vector<std::string> pieces;
  std::unordered_set<std::string> seen;
  for (size_t rank = 0; rank < count; ++rank) {
    const json& token = vocab[rank];
    pieces.push_back(decode_base64(token.at("token_bytes").get_ref<const std::string&>()));
    const std::string& piece = pieces.back();
    if (token.at("rank") != rank || piece.empty() || !seen.insert(piece).second) {
      fail("token " + std::to_string(rank) + " is not one of its own, of that rank");
    }
    if (rank < 256 && (piece.size() != 1 || static_cast<uint8_t>(piece[0]) != rank)) {
      fail("token " + std::to_string(rank) + " is not that byte");
    }
  }
  if (count < 256) fail("it lacks single bytes");
  return pieces;
}

}  // namespace

RawTokenizer read_tekken(const json& root) {
  const json& config = root.at("config");
  const size_t n_pieces = count_of(config, "default_vocab_size");
  const size_t n_special = count_of(config, "default_num_special_tokens");
  if (n_special > std::min(n_pieces, kMostSpecial)) {
    fail("it says it has " + std::to_string(n_special) + " special tokens");
  }

  RawTokenizer out{.kind = "tekken"};
  TableSource& table = out.table;
  table.flags = kByteUnits | kMergeByScore | kIgnoreMerges | kSplitKinds;
  for (const std::string& name : special_tokens(root, n_special)) {
    const auto id = static_cast<uint32_t>(table.pieces.size());
    table.pieces.push_back(name);
    if (name.empty()) fail("a special token is empty");
    table.added.push_back({id, kInText, name});
    out.added.push_back({.content = name, .special = true, .id = id});
    if (name == "<s>") table.bos_id = static_cast<int32_t>(id);
    if (name == "</s>") table.eos_id = static_cast<int32_t>(id);
  }
  if (table.bos_id >= 0) table.flags |= kAddBos;
  table.types.assign(n_special, PieceType::control);
  for (std::string& piece : ranked_pieces(root.at("vocab"), n_pieces - n_special)) {
    table.pieces.push_back(std::move(piece));
  }
  table.types.resize(n_pieces, PieceType::normal);
  for (size_t id = 0; id < n_pieces; ++id) table.scores.push_back(-static_cast<double>(id));
  table.splits = {config.at("pattern").get<std::string>()};
  table.split_kinds = {SplitKind::matches};  // tiktoken drops what lies between
  return out;
}

}  // namespace runner
