#include "runner/tokenizer_raw.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runner/error.h"

namespace runner {
namespace {

std::string read_file(const std::filesystem::path& path) {
  std::error_code failed;
  if (std::filesystem::is_directory(path, failed)) {
    throw Error("it is a folder; name the tokenizer.json or tokenizer.model in it");
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(std::string(std::strerror(errno ? errno : EIO)) + "; check the path");
  std::string data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) throw Error("it cannot be read; check the disk");
  return data;
}

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

std::string sibling_config(const std::filesystem::path& path) {
  nlohmann::json config = nlohmann::json::object();
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    const std::filesystem::path sibling = path.parent_path() / name;
    std::error_code failed;
    if (!std::filesystem::exists(sibling, failed)) continue;
    const auto content = nlohmann::json::parse(read_file(sibling), nullptr, false);
    if (!content.is_object()) throw Error(std::string(name) + " beside it is damaged");
    for (const auto& [key, value] : content.items()) {
      if (!value.is_null()) config[key] = value;
    }
  }
  return config.dump();
}

TableSource read_table(const std::string& path) {
  const std::string data = read_file(path);
  if (data.empty()) throw Error("the file is empty; download it again");
  if (looks_like_json(data)) return table_from_huggingface(data, sibling_config(path));
  if (looks_like_tiktoken(data)) return table_from_tiktoken(data);
  return table_from_sentencepiece(data);
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
