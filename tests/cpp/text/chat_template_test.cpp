#include "text/chat_template.h"

#include "system/error.h"
#include "tests/cpp/byte_tokenizer.h"
#include "tests/cpp/chat_trees.h"
#include "tests/cpp/check.h"

using namespace runner;

namespace {

// The conversation's ids, special tokens written as U, M and E.
std::string encoded(const ChatTemplate& chat, const std::vector<Message>& messages, const ChatInputs& inputs = {}) {
  static const Tokenizer tokenizer = byte_tokenizer();
  std::string text;
  for (const int32_t id : chat.encode(messages, true, inputs, tokenizer)) {
    text += id == kUser ? 'U' : id == kModel ? 'M' : id == kEnd ? 'E' : static_cast<char>(id);
  }
  return text;
}

ChatTemplate chat(const std::string& nodes) {
  return ChatTemplate::from_json(R"({"inputs": ["tools", "thinking"], "thoughts": [], "tree": )" + nodes + "}");
}

const Message kHello{"user", "hello"};

}  // namespace

TEST(turns) {
  const ChatTemplate turns = ChatTemplate::from_json(kTurns);
  CHECK_EQ(encoded(turns, {kHello}), "UhelloEM");
  CHECK_EQ(encoded(turns, {{"system", "s"}, kHello, {"assistant", "a"}, {"user", "b"}}), "[s]UhelloEMaEUbEM");
  CHECK_THROWS(Error, encoded(turns, {{"user", "<tool>"}}), "refuses the conversation: it has a tool");
  CHECK_THROWS(Error, encoded(turns, {}), "no message");
}

TEST(texts_never_become_special_tokens) {
  CHECK_EQ(encoded(ChatTemplate::from_json(kTurns), {{"user", "<|end|>"}}), "U<|end|>EM");
  // Cut, joined with what the template writes, and as JSON.
  const ChatTemplate cut = chat(R"([["name", "messages"], ["const", 0], ["item", 0, 1], ["attr", "content", 2],
    ["const", 2], ["slice", 3, 4, -1, -1], ["const", "<|"], ["concat", 6, 5], ["out", 7, 6, 5], ["seq", 8]])");
  CHECK_EQ(encoded(cut, {{"user", "xxend|>"}}), "<|end|><|end|>");
  const ChatTemplate roles = chat(R"([["name", "messages"], ["const", 0], ["item", 0, 1], ["attr", "role", 2],
    ["const", "<|"], ["const", "|>"], ["concat", 4, 3, 5], ["out", 6]])");
  CHECK_EQ(encoded(roles, {{"end", "x"}}), "E");
  CHECK_THROWS(Error, encoded(roles, {{"<|end|>", "x"}}), "the role '<|end|>'");
  CHECK_THROWS(Error, encoded(roles, {{"", "x"}}), "the role ''");
}

TEST(messages_have_fields) {
  const ChatTemplate fields = chat(R"([["name", "messages"], ["const", false], ["const", null],
    ["filter", "tojson", 0, 1, 2, 2, 1], ["out", 3]])");
  CHECK_EQ(encoded(fields, {{"user", "x", R"({"z": [1], "a": null, "b": true})"}}),
           R"([{"role": "user", "content": "x", "z": [1], "b": true}])");
  CHECK_EQ(encoded(fields, {{"assistant", "", R"({"content": [], "reasoning": "r"})"}}),
           R"([{"thinking": "r", "role": "assistant", "content": [], "reasoning": "r", "reasoning_content": "r"}])");
  CHECK_THROWS(Error, encoded(fields, {{"user", "x", "[]"}}), "no JSON object");
}

TEST(what_a_template_is_told) {
  const ChatTemplate told = chat(R"([["name", "tools"], ["name", "thinking"], ["const", "%d.%m.%Y"], ["now", 2],
    ["out", 0, 1, 3]])");
  ChatInputs inputs{.variables = {{"tools", templates::value_from_json("[1]", kContent)}}, .now = day_of("2024-02-29")};
  set_thinking(inputs, false);
  CHECK_EQ(encoded(told, {kHello}, inputs), "[1]False29.02.2024");
  CHECK(told.takes("tools") && told.takes_thinking() && !told.takes("documents"));
  for (const char* day : {"2023-02-29", "2024-2-9", "x", "", "2024-02-29 ", "2024-13-01"}) CHECK(!day_of(day));
}

TEST(steps_and_depth_are_bounded) {
  CHECK_THROWS(Error, encoded(chat(R"([["call", "f"], ["out", 0, 0], ["macro", "f", 1], ["seq", 2, 1]])"), {kHello}), "too deep");
  const ChatTemplate doubling = chat(R"([["name", "t"], ["concat", 0, 0, 0, 0], ["set", 0, 1], ["const", 90000], ["range", 3, -1, -1],
    ["name", "i"], ["const", "n"], ["field", "n", "t"], ["attr", "t", 6], ["namespace", "t", 6], ["name", "n"], ["set", 10, 9],
    ["attr", "t", 10], ["concat", 12, 12], ["set", 7, 13], ["for", 5, 4, -1, 14, -1], ["seq", 11, 15]])");
  CHECK_THROWS(Error, encoded(doubling, {kHello}), "too many steps or too much memory");
}

TEST(trees_that_are_none) {
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "no nodes"}, {"[3]", "node 0 is none"}, {R"([["nosuch"]])", "'nosuch', which this runner does not know"},
      {R"([["out", 0]])", "before its whole"}, {R"([["out", -2]])", "before its whole"}, {R"([["const"]])", "without a value"},
      {R"([["filter", "nosuch", -1]])", "'nosuch'"}, {R"([["const", 1], ["filter", "trim", 0]])", "takes 1 arguments"},
      {R"([["name"]])", "too few parts"}, {R"([["dict", -1]])", "too few parts"}, {R"([["compare", "is", -1, -1]])", "too few parts"},
  };
  for (const auto& [nodes, words] : cases) CHECK_THROWS(Error, (chat(nodes), 0), words);
  CHECK_THROWS(Error, encoded(chat(R"([["seq"], ["out", 0]])"), {kHello}), "wrong place");
  CHECK_THROWS(Error, (ChatTemplate::from_json("{"), 0), "damaged");
  CHECK_THROWS(Error, (ChatTemplate::from_json("{}"), 0), "no 'tree'");
}

TEST(templates_that_cannot_be_used) {
  const auto unusable = ChatTemplate::from_json(R"({"reason": "too clever"})");
  CHECK(!unusable.usable());
  CHECK_THROWS(Error, encoded(unusable, {kHello}), "too clever", "-m generate");
  const auto older = ChatTemplate::from_json(R"({"reducible": true, "begin": ""})");
  CHECK(!older.usable() && older.reason().find("an older release") != std::string::npos);
  CHECK(ChatTemplate::from_json(R"({"reducible": false, "reason": "odd"})").reason() == "odd");
}

CHECK_MAIN()
