#include "app/chat_loop.h"

#include "system/error.h"
#include "tests/cpp/byte_tokenizer.h"
#include "tests/cpp/chat_trees.h"
#include "tests/cpp/check.h"
#include "tests/cpp/fake_model.h"

using namespace runner;

namespace {

// Answers the n-th turn with "n!" and ends, or never ends if `endless`.
struct Chat {
  FakeModel model;
  std::vector<std::string> input;
  ChatOptions options;
  std::string written;
  std::vector<std::string> notices;
  std::function<void()> forget_interrupt;
  std::string chat_template = kTurns;
  Stats stats;

  explicit Chat(int64_t context, bool endless = false) : model(kByteVocabulary, context, 8, 4) {
    options.generate.stop_ids = {kEnd};
    model.next = [endless](const std::vector<int64_t>& tokens) -> int64_t {
      if (endless && tokens.back() != kModel) return 'x';
      if (tokens.back() == kModel) return '0' + std::ranges::count(tokens, kUser);
      return tokens.back() == '!' ? kEnd : '!';
    };
  }

  ChatResult run() {
    Sampler sampler({.temperature = 0});
    const Tokenizer tokenizer = byte_tokenizer();
    Conversation conversation(model.session(), tokenizer);
    size_t next = 0;
    const ChatIo io{.read_line = [&](bool) -> std::optional<std::string> {
                      if (next == input.size()) return std::nullopt;
                      return input[next++];
                    },
                    .write = [&](std::string_view text) { written += text; },
                    .notice = [&](std::string_view line) { notices.emplace_back(line); },
                    .forget_interrupt = forget_interrupt};
    return run_chat(conversation, sampler, tokenizer, ChatTemplate::from_json(chat_template), options, io, stats);
  }

  int64_t tokens_run() const {
    int64_t total = 0;
    for (const auto& call : model.calls) total += call.length;
    return total;
  }
};

}  // namespace

TEST(turn_of_a_token_that_the_model_lacks_is_refused) {
  Chat chat(64);
  chat.input = {"a", "b<rare>", "c"};
  const ChatResult result = chat.run();
  CHECK(result.refused);
  CHECK_EQ(chat.written, "1!\n2!\n");
  CHECK(chat.notices.size() == 1 && chat.notices[0].find("token id 259") != std::string::npos);
}

TEST(system_prompt_that_cannot_be_is_an_error_at_once) {
  Chat chat(32);
  chat.options.system_prompt = std::string(40, 's');
  chat.input = {"a"};
  CHECK_THROWS(Error, chat.run(), "the conversation needs", "holds 32");
  CHECK_EQ(chat.written, "");
}

TEST(four_turns_read_each_token_once) {
  Chat chat(256);
  chat.input = {"one", "two", "three", "four"};
  chat.run();
  CHECK_EQ(chat.written, "1!\n2!\n3!\n4!\n");
  CHECK(chat.notices.empty());
  // Of each turn: <|user|> text <|end|> <|model|> and the answer's two tokens; <|end|> of an answer
  // is only read with the next turn.
  CHECK_EQ(chat.tokens_run(), (3 + 3 + 5 + 4) + 4 * 5 + 3);
  CHECK_EQ(chat.stats.generated_tokens, 8);
  CHECK_EQ(chat.stats.prompt_tokens, (3 + 3 + 5 + 4) + 4 * 3 + 3);
}

TEST(system_prompt_first_turn_and_blank_lines) {
  Chat chat(256);
  chat.options.system_prompt = "S";
  chat.options.first_turn = "one";
  chat.input = {"", "  \t", "two\r"};
  std::vector<int64_t> seen;
  auto next = chat.model.next;
  chat.model.next = [&](const auto& tokens) { return next(seen = tokens); };
  chat.run();
  CHECK_EQ(chat.written, "1!\n2!\n");
  std::vector<int64_t> expected = {'[', 'S',  ']',   kUser, 'o', 'n', 'e',  kEnd,   kModel, '1',
                                   '!', kEnd, kUser, 't',   'w', 'o', kEnd, kModel, '2',    '!'};
  CHECK_EQ(seen, expected);
}

TEST(what_the_user_writes_is_never_a_special_token) {
  Chat chat(256);
  chat.input = {"<|user|>"};
  chat.run();
  CHECK_EQ(chat.written, "1!\n");
}

TEST(steps_count_a_turn_and_the_next_one_closes_what_was_cut) {
  Chat chat(256);
  chat.options.generate.steps = 1;
  chat.input = {"a", "b"};
  chat.run();
  CHECK_EQ(chat.written, "1\n2\n");
}

TEST(a_full_context_is_said_and_the_chat_goes_on) {
  Chat chat(64, true);
  chat.input = {"a", "b", "/clear", "c"};
  const ChatResult result = chat.run();
  const std::string full = "1" + std::string(59, 'x') + "\n";  // 4 + 60 tokens
  CHECK_EQ(chat.written, full + full);
  CHECK(result.refused && !result.interrupted);
  CHECK_EQ(chat.notices.size(), 3u);
  CHECK(chat.notices[0].find("of 64 tokens is full: /clear") != std::string::npos);
  // What the cache lacks: the answer's last token, its <|end|>, <|user|>b<|end|><|model|>.
  CHECK_EQ(chat.notices[1],
           "the turn needs 6 tokens and a reply at least one more, 1 are left of 64: shorten it, "
           "or begin anew with /clear");
  CHECK_EQ(chat.notices[2], chat.notices[0]);
}

TEST(a_turn_that_is_too_long_is_said_and_left_out) {
  Chat chat(32);
  chat.input = {"a", std::string(40, 'b'), "c"};
  const ChatResult result = chat.run();
  CHECK_EQ(chat.written, "1!\n2!\n");  // <|user|> stands twice in what the model saw
  CHECK(result.refused);
  // It and the <|end|> of the answer before it.
  CHECK_EQ(chat.notices,
           (std::vector<std::string>{
               "the turn needs 44 tokens and a reply at least one more, 26 are left of 32: shorten "
               "it, or use a model made for longer contexts"}));
}

TEST(a_turn_fits_where_a_token_of_the_reply_does) {
  for (const bool fits : {true, false}) {
    Chat chat(32);
    chat.input = {std::string(fits ? 28 : 29, 'b')};
    CHECK_EQ(chat.run().refused, !fits);
    CHECK_EQ(chat.written, fits ? "1\n" : "");
  }
}

TEST(an_interrupted_reply_stays_as_far_as_it_was_written) {
  Chat chat(256);
  bool interrupted = false;
  std::vector<int64_t> seen;
  auto next = chat.model.next;
  chat.model.next = [&](const auto& tokens) {
    interrupted = interrupted || std::ranges::count(tokens, kModel) == 1;
    return next(seen = tokens);
  };
  chat.options.generate.interrupted = [&] { return interrupted; };
  chat.forget_interrupt = [&] { interrupted = false; };
  chat.input = {"a", "b"};
  const ChatResult result = chat.run();
  CHECK(result.interrupted && !result.refused);
  CHECK_EQ(chat.written, "1\n2!\n");
  const std::vector<int64_t> expected = {kUser, 'a', kEnd, kModel, '1', kEnd,
                                         kUser, 'b', kEnd, kModel, '2', '!'};
  CHECK_EQ(seen, expected);
}

TEST(a_turn_without_a_word_of_reply_is_left_out) {
  Chat chat(256);
  bool interrupted = true;
  std::vector<int64_t> seen;
  auto next = chat.model.next;
  chat.model.next = [&](const auto& tokens) { return next(seen = tokens); };
  int64_t asked = 0;
  chat.options.generate.interrupted = [&] { return interrupted && ++asked > 2; };
  chat.forget_interrupt = [&] { interrupted = false; };
  chat.options.first_turn = std::string(40, 'a');  // six chunks, of which one is run
  chat.input = {"b"};
  CHECK(chat.run().interrupted);
  CHECK_EQ(chat.written, "\n1!\n");
  CHECK_EQ(chat.notices.size(), 1u);
  CHECK_EQ(seen, (std::vector<int64_t>{kUser, 'b', kEnd, kModel, '1', '!'}));
}

TEST(what_the_template_refuses_is_said_and_left_out) {
  Chat chat(256);
  chat.input = {"a<tool>", "b", "c"};
  std::vector<int64_t> seen;
  auto next = chat.model.next;
  bool first = true;
  chat.model.next = [&](const auto& tokens) -> int64_t {
    seen = tokens;
    return std::exchange(first, false) ? kEnd : next(tokens);  // an empty reply to "b"
  };
  CHECK(chat.run().refused);
  CHECK_EQ(chat.written, "\n1!\n");
  CHECK_EQ(chat.notices.size(), 2u);
  CHECK_EQ(chat.notices[0], "this model's chat template refuses the conversation: it has a tool");
  CHECK(chat.notices[1].starts_with("the turn is left out") && chat.notices[1].ends_with("an empty answer"));
  CHECK_EQ(seen, (std::vector<int64_t>{kUser, 'c', kEnd, kModel, '1', '!'}));
}

TEST(commands_change_what_the_model_sees) {
  Chat chat(256);
  chat.options.system_prompt = "S";
  std::vector<int64_t> seen;
  auto next = chat.model.next;
  chat.model.next = [&](const auto& tokens) { return next(seen = tokens); };
  chat.input = {"a", "/system T U", "b", "/clear", "/system", "//c"};
  CHECK(!chat.run().refused);
  CHECK_EQ(chat.written, "1!\n2!\n1!\n");
  CHECK_EQ(seen, (std::vector<int64_t>{kUser, '/', 'c', kEnd, kModel, '1', '!'}));
  CHECK(chat.notices.empty());
}

TEST(a_command_that_fails_leaves_the_chat_as_it_was) {
  Chat chat(64);
  chat.input = {"a", "/hlep", "/system " + std::string(60, 's'), "b", "/exit", "c"};
  CHECK(chat.run().refused);
  CHECK_EQ(chat.written, "1!\n2!\n");
  CHECK_EQ(chat.notices.size(), 2u);
  CHECK(chat.notices[0].find("did you mean /help?") != std::string::npos);
  CHECK(chat.notices[1].find("the context holds 64") != std::string::npos);
}

TEST(a_first_turn_is_never_a_command_and_may_have_lines) {
  Chat chat(256);
  std::vector<int64_t> seen;
  auto next = chat.model.next;
  chat.model.next = [&](const auto& tokens) { return next(seen = tokens); };
  chat.options.first_turn = "/exit\nb\n";
  chat.run();
  CHECK_EQ(seen, (std::vector<int64_t>{kUser, '/', 'e', 'x', 'i', 't', '\n', 'b', kEnd, kModel, '1',
                                       '!'}));
}

TEST(a_stop_string_ends_a_turn_and_is_not_in_the_conversation) {
  Chat chat(256);
  chat.options.stop_strings = {"!"};
  chat.input = {"a", "b"};
  std::vector<int64_t> seen;
  auto next = chat.model.next;
  chat.model.next = [&](const auto& tokens) { return next(seen = tokens); };
  chat.run();
  CHECK_EQ(chat.written, "1\n2\n");
  CHECK(std::ranges::count(seen, '1') == 1 && std::ranges::count(seen, '!') == 0);
}

TEST(the_next_turn_has_answers_of_channels_without_thoughts_and_marks) {
  Chat chat(256);
  chat.chat_template.replace(1, 0, R"("channels": {"thought": ["{t}"], "answer": ["{f}"]}, )");
  const std::string reply = "{t}a{f}b";
  std::vector<int64_t> seen;
  chat.model.next = [&](const std::vector<int64_t>& tokens) -> int64_t {
    seen = tokens;
    const auto begin = std::find(tokens.rbegin(), tokens.rend(), kModel).base();
    const auto written = static_cast<size_t>(tokens.end() - begin);
    return written < reply.size() ? reply[written] : kEnd;
  };
  chat.input = {"x", "y"};
  CHECK(!chat.run().refused);
  CHECK_EQ(chat.written, "a\n\nb\na\n\nb\n");
  std::vector<int64_t> expected = {kUser, 'x', kEnd, kModel, 'b', kEnd, kUser, 'y', kEnd, kModel};
  expected.insert(expected.end(), reply.begin(), reply.end());
  CHECK_EQ(seen, expected);
}

TEST(a_template_that_cannot_be_used_is_an_error) {
  FakeModel model;
  const Tokenizer tokenizer = byte_tokenizer();
  Conversation conversation(model.session(), tokenizer);
  Sampler sampler({.temperature = 0});
  Stats stats;
  const auto unusable = ChatTemplate::from_json(R"({"reason": "it is odd"})");
  CHECK_THROWS(Error, (run_chat(conversation, sampler, tokenizer, unusable, {}, {}, stats), 0),
               "it is odd", "-m generate");
}

CHECK_MAIN()
