#include "text/tokenizer_raw.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "system/error.h"
#include "text/json_nesting.h"
#include "text/tokenizer_json_parts.h"

namespace runner {
namespace {

// Whether the first line is `base64 0`.
bool looks_like_tiktoken(std::string_view data) {
  const std::string_view line = data.substr(0, 4096).substr(0, data.substr(0, 4096).find('\n'));
  const size_t space = line.find(' ');
  if (space == line.npos || line.substr(space) != " 0") return false;
  std::string_view text = line.substr(0, space);
  while (text.ends_with('=')) text.remove_suffix(1);
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '+' || c == '/';
  });
}

bool looks_like_json(std::string_view data) {
  const size_t first = data.find_first_not_of(" \t\r\n");
  return first != data.npos && data[first] == '{';
}

bool is_tekken(const nlohmann::json& root) { return !root.contains("model") && root.contains("config"); }

RawTokenizer read(std::string_view data, const Siblings& siblings) {
  if (data.empty()) throw Error("the file is empty; download it again");
  if (looks_like_tiktoken(data)) return read_tiktoken(data, siblings);
  if (!looks_like_json(data)) return read_sentencepiece(data, siblings);
  check_nesting(data);
  const auto root = nlohmann::json::parse(data);
  return is_tekken(root) ? read_tekken(root) : read_huggingface(root, siblings);
}

}  // namespace

RawTokenizer read_raw_tokenizer(std::string_view data, const std::filesystem::path& beside) {
  Siblings siblings;
  try {
    if (!beside.empty()) siblings = read_siblings(beside);
  } catch (const nlohmann::json::exception& error) {
    throw Error(std::string("a JSON file beside it is damaged (") + error.what() + ")");
  }
  try {
    return read(data, siblings);
  } catch (const nlohmann::json::exception& error) {
    throw Error(std::string("not a tokenizer.json, or a damaged one: ") + error.what());
  }
}

RawTokenizer read_raw_file(const std::filesystem::path& path) {
  try {
    return read_raw_tokenizer(read_file(path), path);
  } catch (const Error& error) {
    throw Error("tokenizer " + path.string() + ": " + error.what());
  }
}

}  // namespace runner
