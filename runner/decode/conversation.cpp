#include "decode/conversation.h"

#include <algorithm>
#include <deque>
#include <string>
#include <utility>

#include "system/error.h"

namespace runner {
namespace {

// A reply as it is written.
class Writer {
 public:
  Writer(const Tokenizer& tokenizer, const ReplyOptions& options, std::span<const int32_t> prompt,
         const ReplyListener& listener)
      : text_(tokenizer, options.stop_strings, prompt, options.start), listener_(listener) {}

  // Returns false where the token completes a stop string.
  bool push(int32_t token) {
    reply_.tokens.push_back(token);
    if (listener_.on_token) listener_.on_token(token);
    show(text_.push(token));
    return !text_.stopped();
  }

  Reply finish(const GenerateResult& counts) {
    show(text_.finish());
    reply_.counts = counts;
    return std::move(reply_);
  }

 private:
  void show(const std::string& piece) {
    if (piece.empty()) return;
    reply_.text += piece;
    if (listener_.on_text) listener_.on_text(piece);
  }

  TextStream text_;
  const ReplyListener& listener_;
  Reply reply_ = {};
};

}  // namespace

int64_t Conversation::held(std::span<const int32_t> prompt) const {
  return std::ranges::mismatch(session_.tokens(), prompt).in2 - prompt.begin();
}

// The last token is always run: the logits after it are wanted.
int64_t Conversation::kept(std::span<const int32_t> prompt) const {
  return std::max<int64_t>(0, std::min<int64_t>(held(prompt), std::ssize(prompt) - 1));
}

void Conversation::check(std::span<const int32_t> prompt) const {
  const int64_t common = kept(prompt);
  session_.check_at(common, prompt.subspan(static_cast<size_t>(common)));
}

Reply Conversation::reply(std::span<const int32_t> prompt, Sampler& sampler,
                          const ReplyOptions& options, const ReplyListener& listener) {
  return std::move(replies(prompt, {&sampler, 1}, options, listener).front());
}

std::vector<Reply> Conversation::replies(std::span<const int32_t> prompt,
                                         std::span<Sampler> samplers, const ReplyOptions& options,
                                         const ReplyListener& listener) {
  check(prompt);
  const lowbit::State& state = *session_.state();
  const int64_t left = state.options().sessions - state.open_sessions();
  const int64_t others = std::ssize(samplers) - 1;
  if (others < 0 || others > left) {  // before a long prompt is run
    throw Error(std::to_string(samplers.size()) + " replies at once need as many sessions; there is this one and " +
                std::to_string(left) + " more: ask for fewer, or start with more sessions");
  }
  const int64_t common = kept(prompt);
  session_.rewind(common);
  GenerateOptions prefill = options.generate;
  prefill.prompt_only = true;
  const GenerateResult read =
      generate(session_, samplers[0], prompt.subspan(static_cast<size_t>(common)), prefill, nullptr);

  const ReplyListener nobody;
  std::vector<Session> forks;
  std::deque<Writer> writers;
  std::vector<Continuation> continuations;
  for (size_t i = 1; i < samplers.size(); ++i) forks.push_back(session_.fork());
  for (size_t i = 0; i < samplers.size(); ++i) {
    Writer& writer = writers.emplace_back(tokenizer_, options, prompt, i == 0 ? listener : nobody);
    continuations.push_back({i == 0 ? session_ : forks[i - 1], samplers[i],
                             [&writer](int32_t token) { return writer.push(token); }, read});
  }
  if (read.reason != StopReason::interrupted && !options.generate.prompt_only) {
    generate_together(continuations, options.generate);
  }
  std::vector<Reply> replies;
  for (size_t i = 0; i < samplers.size(); ++i) {
    replies.push_back(writers[i].finish(continuations[i].result));
  }
  return replies;
}

}  // namespace runner
