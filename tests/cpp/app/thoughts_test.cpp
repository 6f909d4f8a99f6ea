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

// What a terminal gets of pieces of text, [ for dim and ] for plain.
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
  CHECK_EQ(thoughts.text(), all);
  for (const auto& [code, sign] : {std::pair<std::string, char>{"\x1b[2m", '['}, {"\x1b[22m", ']'}}) {
    for (size_t at; (at = out.find(code)) != out.npos;) out.replace(at, code.size(), 1, sign);
  }
  return out;
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

TEST(marks_may_be_tokens_without_a_text) {
  const Tokenizer tokenizer = byte_tokenizer();
  std::string out;
  const Thoughts::Write write = [&](std::string_view text) { out += text; };
  Thoughts thoughts(with_marks("<|user|>", "<|end|>"), tokenizer, {}, true, write);
  thoughts.note_token(kUser);
  thoughts.push("a");
  thoughts.note_token(kEnd);
  thoughts.push("b");
  thoughts.finish();
  CHECK_EQ(thoughts.text(), "<|user|>a<|end|>b");
  CHECK_EQ(out, "\x1b[2m<|user|>a<|end|>\x1b[22mb");
}

CHECK_MAIN()
