#include "app/thoughts.h"

#include "tests/cpp/byte_tokenizer.h"
#include "tests/cpp/check.h"

using namespace runner;

namespace {

const ChatTemplate& with_marks(const char* begin, const char* end) {
  static ChatTemplate chat = ChatTemplate::from_json(R"({"reason": "x"})");
  chat = ChatTemplate::from_json(std::string(R"({"tree": [["seq"]], "inputs": [], "thoughts": [")") + begin +
                                 "\", \"" + end + "\"]}");
  return chat;
}

// [ for dim and ] for plain.
std::string signed_codes(std::string out) {
  for (const auto& [code, sign] : {std::pair<std::string, char>{"\x1b[2m", '['}, {"\x1b[22m", ']'}}) {
    for (size_t at; (at = out.find(code)) != out.npos;) out.replace(at, code.size(), 1, sign);
  }
  return out;
}

// What a terminal gets of pieces of text.
std::string shown(const std::vector<std::string>& pieces, std::vector<int32_t> prompt = {}, bool dims = true) {
  const Tokenizer tokenizer = byte_tokenizer();
  std::string out;
  const Thoughts::Write write = [&](std::string_view text) { out += text; };
  Thoughts thoughts(with_marks("<t>", "</t>"), tokenizer, prompt, dims, write);
  std::string all;
  for (const std::string& piece : pieces) {
    thoughts.push(piece);
    all += piece;
  }
  thoughts.finish();
  CHECK_EQ(thoughts.message().content, all);
  CHECK_EQ(thoughts.message().fields, "");
  return signed_codes(out);
}

// Messages in channels, with the byte tokenizer's names: <|user|> for what begins a header, <|model|> for
// what ends one, <|end|> for the end of a message and <rare> for the start of another.
const ChatTemplate& with_channels() {
  static const ChatTemplate chat = ChatTemplate::from_json(
      R"({"tree": [["seq"]], "inputs": [], "thoughts": [], "channels": {"thought": ["<|user|>analysis<|model|>"],
          "answer": ["<|user|>final<|model|>", "<|end|>", "<rare>assistant"]}})");
  return chat;
}

struct Reply {
  std::string shown, content, fields;
};

// A reply of tokens, which come as the runner gives them; those of names are written by their letters.
Reply in_channels(std::string_view given, bool dims = true) {
  const Tokenizer tokenizer = byte_tokenizer();
  Reply reply;
  const Thoughts::Write write = [&](std::string_view text) { reply.shown += text; };
  Thoughts thoughts(with_channels(), tokenizer, {}, dims, write);
  for (const char letter : given) {
    const int32_t token = letter == 'U'   ? kUser
                          : letter == 'M' ? kModel
                          : letter == 'E' ? kEnd
                          : letter == 'R' ? kByteVocabulary
                                          : letter;
    thoughts.note_token(token);
    thoughts.push(tokenizer.decode({&token, 1}));
  }
  thoughts.finish();
  const Message said = thoughts.message();
  return {signed_codes(reply.shown), said.content, said.fields};
}

}  // namespace

TEST(thoughts_are_dim) {
  CHECK_EQ(shown({"a<t>b</t>c"}), "a[<t>b</t>]c");
  CHECK_EQ(shown({"<t>a</t>", "b<t>", "c"}), "[<t>a</t>]b[<t>c]");
  CHECK_EQ(shown({"a</t>b"}), "a</t>b");
  CHECK_EQ(shown({"a<t>b</t>c"}, {}, false), "a<t>b</t>c");
}

TEST(marks_come_in_pieces) {
  CHECK_EQ(shown({"a<", "t", ">b", "</", "t>c"}), "a[<t>b</t>]c");
  CHECK_EQ(shown({"a<", "b<t", "x<"}), "a<b<tx<");
}

TEST(a_prompt_may_begin_a_thought) {
  const auto ids = [](std::string_view text) { return std::vector<int32_t>(text.begin(), text.end()); };
  CHECK_EQ(shown({"a</t>b"}, ids("x<t>\n")), "[a</t>]b");
  CHECK_EQ(shown({"a"}, ids("<t></t>\n")), "a");
}

TEST(a_mark_that_a_user_wrote_begins_no_thought) {
  std::vector<int32_t> prompt{kUser, '<', 't', '>', '?', kEnd, kModel, '\n'};
  CHECK_EQ(shown({"a"}, prompt), "a");
  for (const char letter : {'<', 't', '>'}) prompt.push_back(letter);
  CHECK_EQ(shown({"a</t>b"}, prompt), "[a</t>]b");
}

TEST(marks_may_be_tokens_without_a_text) {
  const Tokenizer tokenizer = byte_tokenizer();
  std::string out;
  const Thoughts::Write write = [&](std::string_view text) { out += text; };
  Thoughts thoughts(with_marks("<|user|>", "<|end|>"), tokenizer, {}, true, write);
  for (const int32_t token : {kUser, int32_t{'a'}, kEnd, int32_t{'b'}}) {
    thoughts.note_token(token);
    thoughts.push(tokenizer.decode({&token, 1}));
  }
  thoughts.finish();
  CHECK_EQ(thoughts.message().content, "<|user|>a<|end|>b");
  CHECK_EQ(out, "\x1b[2m<|user|>a<|end|>\x1b[22mb");
}

// A text that a stop string might have begun in comes with the token after it.
TEST(text_that_comes_with_a_mark_is_before_it) {
  const Tokenizer tokenizer = byte_tokenizer();
  std::string out;
  const Thoughts::Write write = [&](std::string_view text) { out += text; };
  Thoughts thoughts(with_marks("<|user|>", "<|end|>"), tokenizer, {}, true, write);
  thoughts.note_token(kUser);
  thoughts.note_token('a');
  thoughts.note_token(kEnd);
  thoughts.push("a");
  thoughts.note_token('b');
  thoughts.push("b");
  thoughts.finish();
  CHECK_EQ(thoughts.message().content, "<|user|>a<|end|>b");
}

TEST(marks_without_a_text_are_not_written_where_nothing_is_dim) {
  const Tokenizer tokenizer = byte_tokenizer();
  std::string out;
  const Thoughts::Write write = [&](std::string_view text) { out += text; };
  Thoughts thoughts(with_marks("<|user|>", "<|end|>"), tokenizer, {}, false, write);
  for (const int32_t token : {kUser, int32_t{'a'}, kEnd, int32_t{'b'}}) {
    thoughts.note_token(token);
    thoughts.push(tokenizer.decode({&token, 1}));
  }
  thoughts.finish();
  CHECK_EQ(thoughts.message().content, "<|user|>a<|end|>b");
  CHECK_EQ(out, "ab");
}

TEST(thoughts_in_a_channel_are_a_field_of_their_own) {
  const Reply both = in_channels("UanalysisMWe thinkERassistantUfinalMHi.");
  CHECK_EQ(both.shown, "[We think]\n\nHi.");
  CHECK_EQ(both.content, "Hi.");
  CHECK_EQ(both.fields, R"({"reasoning_content": "We think"})");

  const Reply answer = in_channels("UfinalMHi.");
  CHECK_EQ(answer.shown, "Hi.");
  CHECK_EQ(answer.content, "Hi.");
  CHECK_EQ(answer.fields, "");

  const Reply cut = in_channels("UanalysisMWe");
  CHECK_EQ(cut.shown, "[We]");
  CHECK_EQ(cut.content, "");
  CHECK_EQ(cut.fields, R"({"reasoning_content": "We"})");

  const Reply plain = in_channels("UanalysisMWe thinkERassistantUfinalMHi.", false);
  CHECK_EQ(plain.shown, "We think\n\nHi.");
  CHECK_EQ(plain.content, both.content);
  CHECK_EQ(plain.fields, both.fields);
}

TEST(several_messages_of_a_channel_are_apart_and_others_are_shown_with_their_headers) {
  const Reply reply = in_channels("UanalysisMaERassistantUanalysisMbERassistant to=fUcommentaryM{}");
  CHECK_EQ(reply.shown, "[a\n\nb]\n\n to=f<|user|>commentary<|model|>{}");
  CHECK_EQ(reply.content, " to=f<|user|>commentary<|model|>{}");
  CHECK_EQ(reply.fields, R"({"reasoning_content": "a\n\nb"})");
}

CHECK_MAIN()
