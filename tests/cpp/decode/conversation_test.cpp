// Conversations: what is kept of a prompt, and replies that are generated together.

#include "decode/conversation.h"

#include "system/error.h"
#include "tests/cpp/byte_tokenizer.h"
#include "tests/cpp/check.h"
#include "tests/cpp/fake_model.h"

using namespace runner;

namespace {

using Ids = std::vector<int32_t>;

int64_t tokens_run(const FakeModel& model) {
  int64_t total = 0;
  for (const auto& call : model.calls) total += call.length;
  return total;
}

Sampler sampler(uint64_t seed) { return Sampler({.temperature = 3}, seed); }

}  // namespace

TEST(a_common_beginning_is_not_run_again) {
  FakeModel model(kByteVocabulary, 64);
  const Tokenizer tokenizer = byte_tokenizer();
  Conversation conversation(model.session(), tokenizer);
  Sampler greedy({.temperature = 0});
  const Ids prompt = {65, 66, 67, 68};
  const Reply reply = conversation.reply(prompt, greedy, {{.steps = 3}});
  CHECK_EQ(reply.tokens, model.expected(prompt, 3));
  CHECK_EQ(tokens_run(model), 6);

  Ids longer = prompt;
  longer.insert(longer.end(), reply.tokens.begin(), reply.tokens.begin() + 2);
  longer.push_back(70);
  CHECK_EQ(conversation.held(longer), 6);
  model.calls.clear();
  CHECK_EQ(conversation.reply(longer, greedy, {{.steps = 1}}).tokens, model.expected(longer, 1));
  CHECK_EQ(tokens_run(model), 1);

  model.calls.clear();  // of what it has read, the last token is run again
  CHECK_EQ(conversation.reply(prompt, greedy, {{.steps = 1}}).tokens, model.expected(prompt, 1));
  CHECK_EQ(tokens_run(model), 1);
  CHECK_EQ(conversation.session().position(), 4);
}

TEST(what_does_not_fit_changes_nothing) {
  FakeModel model(kByteVocabulary, 16);
  const Tokenizer tokenizer = byte_tokenizer();
  Conversation conversation(model.session(), tokenizer);
  Sampler greedy({.temperature = 0});
  conversation.reply(Ids{65, 66, 67}, greedy, {{.steps = 2}});
  const int64_t before = conversation.session().position();
  CHECK_THROWS(Error, conversation.reply(Ids(17, 65), greedy, {}), "17 tokens", "16");
  CHECK_THROWS(Error, conversation.reply(Ids{}, greedy, {}), "no tokens");
  CHECK_THROWS(Error, conversation.check(Ids{65, 9999}), "9999");
  CHECK_EQ(conversation.session().position(), before);
}

// More samples than a forward takes sessions: each is what it would be alone.
TEST(samples_together_are_those_alone) {
  const Tokenizer tokenizer = byte_tokenizer();
  const Ids prompt = {65, 66, 67, 68, 69, 70, 71, 72, 73};
  FakeModel model(kByteVocabulary, 64);
  std::vector<Sampler> samplers;
  for (uint64_t i = 0; i < 5; ++i) samplers.push_back(sampler(i));
  Conversation together(model.session(0, 5), tokenizer);
  std::string heard;
  const std::vector<Reply> replies = together.replies(
      prompt, samplers, {{.steps = 20, .stop_ids = {70, 75}}},
      {.on_text = [&](const std::string& text) { heard += text; }});
  CHECK_EQ(replies.size(), size_t{5});
  CHECK_EQ(heard, replies[0].text);
  bool differ = false;
  for (uint64_t i = 0; i < 5; ++i) {
    Conversation alone(model.session(), tokenizer);
    Sampler own = sampler(i);
    const Reply expected = alone.reply(prompt, own, {{.steps = 20, .stop_ids = {70, 75}}});
    CHECK_EQ(replies[i].tokens, expected.tokens);
    CHECK_EQ(replies[i].text, expected.text);
    CHECK(replies[i].counts.reason == expected.counts.reason);
    differ |= replies[i].tokens != replies[0].tokens;
  }
  CHECK(differ);
  model.calls.clear();
  CHECK_THROWS(Error, Conversation(model.session(0, 2), tokenizer).replies(prompt, samplers, {}),
               "5 replies", "1 more");
  CHECK(model.calls.empty());
}

CHECK_MAIN()
