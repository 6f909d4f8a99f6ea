#include "text/tokenizer_raw.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "system/error.h"

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

TableSource read_table(const std::string& path) {
  const std::string data = read_file(path);
  if (data.empty()) throw Error("the file is empty; download it again");
  const Siblings siblings = read_siblings(path);
  if (looks_like_json(data)) return table_from_huggingface(data, siblings);
  if (looks_like_tiktoken(data)) return table_from_tiktoken(data, siblings);
  return table_from_sentencepiece(data, siblings);
}

}  // namespace

std::string table_from_raw_file(const std::string& path) {
  try {
    return serialize_table(read_table(path));
  } catch (const Error& error) {
    throw Error("tokenizer " + path + ": " + error.what());
  } catch (const nlohmann::json::exception& error) {
    throw Error("tokenizer " + path + ": a JSON file is damaged (" + error.what() + ")");
  }
}

}  // namespace runner
