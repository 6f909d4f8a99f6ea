#include "text/chat.h"

#include <nlohmann/json.hpp>

#include "system/error.h"
#include "tests/cpp/check.h"
#include "text/tokenizer_table.h"

using namespace runner;
using nlohmann::json;

namespace {

constexpr int32_t kBegin = 256, kEnd = 257;

Tokenizer byte_tokenizer() {
  TableSource table;
  table.flags = kByteUnits;
  for (int byte = 0; byte < 256; ++byte) {
    table.pieces.push_back({static_cast<char>(byte)});
    table.types.push_back(PieceType::normal);
  }
  for (const uint32_t id : {kBegin, kEnd}) {
    table.pieces.push_back(id == kBegin ? "<s>" : "</s>");
    table.types.push_back(PieceType::control);
    table.added.push_back({id, 0, table.pieces.back()});
  }
  return Tokenizer::from_table(serialize_table(table));
}

json format(const char* placement) {
  const auto role = [](const char* prefix, const char* suffix, bool strip) {
    return json{{"prefix", prefix}, {"suffix", suffix}, {"strip", strip}};
  };
  json system = role("S", "~", false);
  system["placement"] = placement;
  system["default"] = nullptr;
  return {{"reducible", true},
          {"begin", "<s>"},
          {"system", system},
          {"user", role("[", "]", true)},
          {"assistant", role(" ", "</s>", false)},
          {"strip_folded", false},
          {"generation_prompt", ">"}};
}

// The conversation's ids, special tokens written as ^ and $.
std::string encoded(const json& chat, const std::vector<Message>& messages, bool prompt = true) {
  static const Tokenizer tokenizer = byte_tokenizer();
  std::string text;
  for (const int32_t id : ChatFormat::from_json(chat.dump()).encode(messages, prompt, tokenizer)) {
    text += id == kBegin ? '^' : id == kEnd ? '$' : static_cast<char>(id);
  }
  return text;
}

const Message kSystem{"system", " s "}, kUser{"user", " u\n"}, kAnswer{"assistant", "a"},
    kAgain{"user", "v"};

}  // namespace

TEST(turns) {
  CHECK_EQ(encoded(format("turn"), {kUser}), "^[u]>");
  CHECK_EQ(encoded(format("turn"), {kUser}, false), "^[u]");
  CHECK_EQ(encoded(format("turn"), {kSystem, kUser, kAnswer, kAgain}), "^S s ~[u] a$[v]>");
}

TEST(default_system_text) {
  json chat = format("turn");
  chat["system"]["default"] = "d";
  CHECK_EQ(encoded(chat, {kUser}), "^Sd~[u]>");
  CHECK_EQ(encoded(chat, {kSystem, kUser}), "^S s ~[u]>");
}

TEST(folded_system_text) {
  CHECK_EQ(encoded(format("first_user"), {kSystem, kUser, kAnswer, kAgain}), "^[S s ~u] a$[v]>");
  CHECK_EQ(encoded(format("last_user"), {kSystem, kUser, kAnswer, kAgain}), "^[u] a$[S s ~v]>");
  json chat = format("first_user");
  chat["strip_folded"] = true;
  chat["system"]["prefix"] = "";
  CHECK_EQ(encoded(chat, {kSystem, kUser}), "^[s ~ u]>");
  chat["system"]["suffix"] = " ";
  CHECK_EQ(encoded(chat, {{"system", " "}, {"user", "\t"}}), "^[]>");
}

TEST(contents_never_become_special_tokens) {
  CHECK_EQ(encoded(format("turn"), {{"system", "<s>"}, {"user", "</s>"}}), "^S<s>~[</s>]>");
  CHECK_EQ(encoded(format("first_user"), {{"system", "<"}, {"user", "s>"}}), "^[S<~s>]>");
}

TEST(earlier_answers_are_cut) {
  json chat = format("turn");
  chat["assistant"]["cut"] = {{"after", "</t>"},
                              {"strip", {{"left", "newlines"}, {"right", "none"}}}};
  const auto answered = [&](const char* answer) {
    return encoded(chat, {kUser, {"assistant", answer}, kAgain});
  };
  CHECK_EQ(answered("<t>x</t>\n\n y \n"), "^[u]  y \n$[v]>");
  CHECK_EQ(answered("x</t>y</t>z"), "^[u] z$[v]>");
  CHECK_EQ(answered("\ny<t>"), "^[u] \ny<t>$[v]>");
  CHECK_EQ(answered("x</t>"), "^[u] $[v]>");
  chat["assistant"]["cut"] = nullptr;
  CHECK_EQ(answered("x</t>y"), "^[u] x</t>y$[v]>");
}

TEST(ends_of_contents_are_stripped_as_said) {
  json chat = format("turn");
  const auto user = [&](const char* left, const char* right) {
    chat["user"]["strip"] = {{"left", left}, {"right", right}};
    return encoded(chat, {{"user", "\n\n \nx\n \n"}});
  };
  CHECK_EQ(user("none", "none"), "^[\n\n \nx\n \n]>");
  CHECK_EQ(user("newlines", "newlines"), "^[ \nx\n ]>");
  CHECK_EQ(user("white_space", "none"), "^[x\n \n]>");
  CHECK_EQ(user("none", "white_space"), "^[\n\n \nx]>");
  CHECK_THROWS(Error, user("tabs", "none"), "'tabs'", "the exporter's version");
}

TEST(system_text_of_white_space_alone) {
  json chat = format("turn");
  const std::vector<Message> messages{{"system", " \u3000\n"}, kUser};
  CHECK_EQ(encoded(chat, messages), "^S \u3000\n~[u]>");
  chat["system"]["blank"] = "none";
  CHECK_EQ(encoded(chat, messages), "^[u]>");
  CHECK_EQ(encoded(chat, {kSystem, kUser}), "^S s ~[u]>");
  chat["system"]["default"] = "d";
  CHECK_EQ(encoded(chat, messages), "^Sd~[u]>");
}

TEST(contents_that_the_template_takes_for_more_than_text) {
  json chat = format("turn");
  chat["refused"] = {{"user", {"<tool>"}}, {"assistant", {""}}};
  CHECK_THROWS(Error, encoded(chat, {kUser, kAnswer, {"user", "a<tool>"}}), "message 3", "<tool>");
  CHECK_EQ(encoded(chat, {{"system", "<tool>"}, kUser}), "^S<tool>~[u]>");
  CHECK_THROWS(Error, encoded(chat, {kUser, {"assistant", "\n"}, kAgain}), "message 2", "no text");
  CHECK_EQ(encoded(chat, {{"user", ""}}), "^[]>");
}

TEST(special_tokens_across_texts_of_the_format) {
  json chat = format("turn");
  chat["user"] = {{"prefix", "<"}, {"suffix", "s>"}, {"strip", true}};
  CHECK_EQ(encoded(chat, {{"user", " "}}), "^^>");  // as in the template's text
  CHECK_EQ(encoded(chat, {{"user", "/"}}), "^</s>>");
}

TEST(what_cannot_be_encoded) {
  CHECK_THROWS(Error, encoded(format("none"), {kSystem, kUser}), "takes no system prompt");
  CHECK_EQ(encoded(format("none"), {kUser}), "^[u]>");
  CHECK_THROWS(Error, encoded(format("turn"), {}), "no message");
  CHECK_THROWS(Error, encoded(format("turn"), {kSystem}), "no message");
  CHECK_THROWS(Error, encoded(format("turn"), {kAnswer}), "assistant");
  CHECK_THROWS(Error, encoded(format("turn"), {kUser, kAgain}), "take turns");
  CHECK_THROWS(Error, encoded(format("turn"), {kUser, kSystem}), "system");
}

TEST(formats_that_are_none) {
  const auto chat = ChatFormat::from_json(R"({"reducible": false, "reason": "too clever"})");
  CHECK(!chat.reducible());
  CHECK_EQ(chat.reason(), "too clever");
  CHECK_THROWS(Error, chat.encode({kUser}, true, byte_tokenizer()), "too clever");
  CHECK_THROWS(Error, ChatFormat::from_json("{"), "damaged");
  CHECK_THROWS(Error, ChatFormat::from_json("{}"), "damaged");
  CHECK_THROWS(Error, ChatFormat::from_json(format("elsewhere").dump()), "elsewhere");
  json lacking = format("turn");
  lacking["user"].erase("strip");
  CHECK_THROWS(Error, ChatFormat::from_json(lacking.dump()), "strip");
}

CHECK_MAIN()
