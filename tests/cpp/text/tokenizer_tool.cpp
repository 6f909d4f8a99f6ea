// What pytest asks of the C++ tokenizer and chat format, one JSON request a line of standard input:
//
//   tokenizer_tool FILE [CHAT_JSON]     FILE: a raw tokenizer file, or a table if it ends in .table
//
//   {"text": T, "plain": B}                        the ids
//   {"ids": [...]}                                 {"text": decoded, "pieces": streamed}
//   {"messages": [[role, content]...], "generation_prompt": B}    the ids, or {"error": E}
//   {"table": true}                                the table's bytes in hexadecimal
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "system/error.h"
#include "text/chat.h"
#include "text/tokenizer.h"

using nlohmann::json;
using runner::Tokenizer;

namespace {

Tokenizer open(const std::string& path) {
  if (!path.ends_with(".table")) return Tokenizer::from_file(path);
  std::ifstream file(path, std::ios::binary);
  return Tokenizer::from_table({std::istreambuf_iterator<char>(file), {}});
}

std::string hexadecimal(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<uint8_t>(c));
    out += digits;
  }
  return out;
}

json answer(const json& request, const Tokenizer& tokenizer, const runner::ChatFormat& chat) {
  if (request.contains("table")) return hexadecimal(tokenizer.table());
  if (request.contains("text")) {
    const auto special =
        request.value("plain", false) ? Tokenizer::Special::plain : Tokenizer::Special::parse;
    return tokenizer.encode(request["text"].get<std::string>(), false, special);
  }
  if (request.contains("ids")) {
    const auto ids = request["ids"].get<std::vector<int32_t>>();
    runner::StreamDecoder decoder(tokenizer);
    json pieces = json::array();
    for (const int32_t id : ids) pieces.push_back(decoder.push(id));
    pieces.push_back(decoder.finish());
    return {{"text", tokenizer.decode(ids)}, {"pieces", pieces}};
  }
  std::vector<runner::Message> messages;
  for (const json& message : request.at("messages")) messages.push_back({message[0], message[1]});
  try {
    return chat.encode(messages, request.at("generation_prompt").get<bool>(), tokenizer);
  } catch (const runner::Error& error) {
    return {{"error", error.what()}};
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  try {
    const Tokenizer tokenizer = open(argv[1]);
    const auto chat = runner::ChatFormat::from_json(
        argc > 2 ? argv[2] : R"({"reducible": false, "reason": "none was given"})");
    for (std::string line; std::getline(std::cin, line);) {
      std::puts(answer(json::parse(line), tokenizer, chat).dump().c_str());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
