// What pytest asks of the C++ tokenizer and chat templates, one JSON request a line of standard input:
//
//   tokenizer_tool FILE [CHAT_JSON]     FILE: a raw tokenizer file, or a table if it ends in .table
//
//   {"text": T, "plain": B, "bos": B}              the ids
//   {"ids": [...]}                                 {"text": decoded, "pieces": streamed}
//   {"messages": [...], "generation_prompt": B, "variables": {...}, "date": D}    the ids, or {"error": E};
//       a message is an object, or [role, content]
//   {"table": true}                                the table's bytes in hexadecimal
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "system/error.h"
#include "text/chat_template.h"
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

// The request's text is read again, as values whose objects keep their order.
json chat_answer(const std::string& line, const Tokenizer& tokenizer, const runner::ChatTemplate& chat) {
  namespace templates = runner::templates;
  const templates::Value request = templates::value_from_json(line, runner::kContent);
  const auto field = [&](std::string_view name) { return request.dict().find(name); };
  std::vector<templates::Value> messages;
  for (const templates::Value& message : field("messages")->list().items) {
    messages.push_back(message.is_dict() ? message
                                         : templates::dict_value({{templates::text_value("role"), message.list().items[0]},
                                                                  {templates::text_value("content"), message.list().items[1]}}));
  }
  runner::ChatInputs inputs;
  if (const templates::Value* variables = field("variables")) {
    for (const auto& [name, value] : variables->dict().items) inputs.variables.emplace_back(name.bytes(), value);
  }
  if (const templates::Value* date = field("date")) inputs.now = runner::day_of(date->bytes());
  try {
    return chat.encode(templates::list_value(std::move(messages)), is_true(*field("generation_prompt")), inputs,
                       tokenizer);
  } catch (const runner::Error& error) {
    return {{"error", error.what()}};
  }
}

json answer(const std::string& line, const Tokenizer& tokenizer, const runner::ChatTemplate& chat) {
  const json request = json::parse(line);
  if (request.contains("table")) return hexadecimal(tokenizer.table());
  if (request.contains("text")) {
    const auto special =
        request.value("plain", false) ? Tokenizer::Special::plain : Tokenizer::Special::parse;
    return tokenizer.encode(request["text"].get<std::string>(), request.value("bos", false), special);
  }
  if (request.contains("ids")) {
    const auto ids = request["ids"].get<std::vector<int32_t>>();
    runner::StreamDecoder decoder(tokenizer);
    json pieces = json::array();
    for (const int32_t id : ids) pieces.push_back(decoder.push(id));
    pieces.push_back(decoder.finish());
    return {{"text", tokenizer.decode(ids)}, {"pieces", pieces}};
  }
  return chat_answer(line, tokenizer, chat);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  try {
    const Tokenizer tokenizer = open(argv[1]);
    const auto chat = runner::ChatTemplate::from_json(
        argc > 2 ? argv[2] : R"({"reason": "none was given"})");
    for (std::string line; std::getline(std::cin, line);) {
      std::puts(answer(line, tokenizer, chat).dump().c_str());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
