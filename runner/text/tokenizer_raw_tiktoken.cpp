// Llama 3's tiktoken files: a line a token, `base64 rank`; ids are ranks. The split pattern and the 256 special
// tokens are not in the file but in Meta's code. Source: llama-models, llama3/tokenizer.py.
#include <algorithm>
#include <map>
#include <unordered_set>

#include "system/error.h"
#include "text/base64.h"
#include "text/tokenizer_raw.h"

namespace runner {
namespace {

constexpr size_t kSpecialTokens = 256;
constexpr size_t kMostRanks = 128'000;  // Llama 3's; others split texts by other patterns

std::vector<std::string> special_tokens() {
  std::vector<std::string> names = {"<|begin_of_text|>",
                                    "<|end_of_text|>",
                                    "<|reserved_special_token_0|>",
                                    "<|reserved_special_token_1|>",
                                    "<|finetune_right_pad_id|>",
                                    "<|step_id|>",
                                    "<|start_header_id|>",
                                    "<|end_header_id|>",
                                    "<|eom_id|>",
                                    "<|eot_id|>",
                                    "<|python_tag|>"};
  for (int i = 2; names.size() < kSpecialTokens; ++i) {
    names.push_back("<|reserved_special_token_" + std::to_string(i) + "|>");
  }
  return names;
}

std::vector<std::string> parse_ranks(std::string_view data) {
  std::vector<std::string> pieces;
  std::unordered_set<std::string> seen;
  size_t n_bytes = 0;
  for (size_t number = 1; !data.empty(); ++number) {
    const std::string_view line = data.substr(0, data.find('\n'));
    data.remove_prefix(std::min(line.size() + 1, data.size()));
    if (line.empty()) continue;
    const std::string rank = " " + std::to_string(pieces.size());
    if (!line.ends_with(rank)) {
      throw Error("line " + std::to_string(number) + " is not the tiktoken token of rank" + rank);
    }
    pieces.push_back(decode_base64(line.substr(0, line.size() - rank.size())));
    if (pieces.back().empty() || !seen.insert(pieces.back()).second) {
      throw Error("the tiktoken file names a token twice or an empty one");
    }
    n_bytes += pieces.back().size() == 1;
  }
  if (pieces.size() > kMostRanks) {
    throw Error("a tiktoken file of " + std::to_string(pieces.size()) +
                " tokens is not supported: only Llama 3's, of " + std::to_string(kMostRanks) +
                ", is; give the model's tokenizer.json");
  }
  if (n_bytes != 256) {
    throw Error("the tiktoken file lacks " + std::to_string(256 - n_bytes) +
                " of the 256 single bytes");
  }
  return pieces;
}

// Llama 3's special tokens; what siblings list takes their places, by its ids.
std::map<uint32_t, AddedEntry> added_tokens(size_t n_ranks, const Siblings& siblings) {
  const auto n_pieces = static_cast<uint32_t>(n_ranks);
  std::map<uint32_t, AddedEntry> tokens;
  std::vector<AddedEntry> own;
  for (const std::string& name : special_tokens()) {
    own.push_back({.content = name, .special = true, .id = std::nullopt});
    tokens[n_pieces + static_cast<uint32_t>(tokens.size())] = own.back();
  }
  for (const AddedEntry& token : siblings.additions(own)) {
    const auto end = n_pieces + static_cast<uint32_t>(tokens.size());
    const uint32_t id = token.id.value_or(end);
    if (id < n_pieces || id > end) {
      throw Error("added token '" + token.content + "' has id " + std::to_string(id) +
                  ", which is a token's of the file, or leaves a gap: correct the file beside it "
                  "that lists it");
    }
    if (token.lstrip || token.rstrip || token.single_word) {
      throw Error("added token '" + token.content +
                  "': tiktoken has no lstrip, rstrip, single_word");
    }
    tokens[id] = token;
  }
  std::unordered_set<std::string> seen;
  for (const auto& [id, token] : tokens) {
    if (!seen.insert(token.content).second) {
      throw Error("the files beside it give one added token two ids: correct them");
    }
  }
  return tokens;
}

}  // namespace

RawTokenizer read_tiktoken(std::string_view data, const Siblings& siblings) {
  RawTokenizer out{.kind = "tiktoken"};
  TableSource& table = out.table;
  table.flags = kByteUnits | kMergeByScore | kIgnoreMerges | kAddBos;
  table.pieces = parse_ranks(data);
  table.types.assign(table.pieces.size(), PieceType::normal);
  table.bos_id = static_cast<int32_t>(table.pieces.size());
  table.eos_id = table.bos_id + 1;
  for (const auto& [id, token] : added_tokens(table.pieces.size(), siblings)) {
    if (token.content == siblings.bos_token) table.bos_id = static_cast<int32_t>(id);
    if (token.content == siblings.eos_token) table.eos_id = static_cast<int32_t>(id);
    table.added.push_back({id, kInText, token.content});
    out.added.push_back(token);
    out.added.back().id = id;
    table.pieces.push_back(token.content);
    table.types.push_back(token.special ? PieceType::control : PieceType::user_defined);
  }
  for (size_t id = 0; id < table.pieces.size(); ++id) {
    table.scores.push_back(-static_cast<double>(id));
  }
  table.splits = {std::string(kLlama3Pattern)};
  return out;
}

}  // namespace runner
