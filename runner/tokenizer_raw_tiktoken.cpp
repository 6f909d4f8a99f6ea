// Llama 3's tiktoken files. The same steps as exporter/tokenizer_tiktoken.py.
#include <algorithm>
#include <unordered_set>

#include "runner/base64.h"
#include "runner/error.h"
#include "runner/tokenizer_raw.h"

namespace runner {
namespace {

constexpr size_t kSpecialTokens = 256;

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
  if (n_bytes != 256) {
    throw Error("the tiktoken file lacks " + std::to_string(256 - n_bytes) +
                " of the 256 single bytes");
  }
  return pieces;
}

}  // namespace

TableSource table_from_tiktoken(std::string_view data) {
  TableSource table;
  table.flags = kByteUnits | kMergeByScore | kIgnoreMerges | kAddBos;
  table.pieces = parse_ranks(data);
  table.types.assign(table.pieces.size(), PieceType::normal);
  table.bos_id = static_cast<int32_t>(table.pieces.size());
  table.eos_id = table.bos_id + 1;
  for (const std::string& name : special_tokens()) {
    table.added.push_back({static_cast<uint32_t>(table.pieces.size()), kInText, name});
    table.pieces.push_back(name);
    table.types.push_back(PieceType::control);
  }
  for (size_t id = 0; id < table.pieces.size(); ++id) {
    table.scores.push_back(-static_cast<float>(id));
  }
  table.splits = {std::string(kLlama3Pattern)};
  return table;
}

}  // namespace runner
