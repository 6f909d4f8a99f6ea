#include "runner/chat_loop.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "runner/error.h"
#include "runner/text_stream.h"

namespace runner {
namespace {

constexpr std::string_view kBlank = " \t\r\n";

// The next turn of the user that says something.
std::optional<std::string> next_turn(std::optional<std::string>& first, const ChatIo& io) {
  while (true) {
    std::optional<std::string> turn = first ? std::exchange(first, std::nullopt) : io.read_turn();
    if (!turn) return std::nullopt;
    turn->erase(turn->find_last_not_of("\r\n") + 1);
    if (turn->find_first_not_of(kBlank) != std::string::npos) return turn;
  }
}

// Rewinds `session`, whose cache holds `cached`, to where `wanted` departs from it.
// Returns what is left to run: at least one token.
std::span<const int32_t> rewind_to_common(Session& session, const std::vector<int32_t>& cached,
                                          const std::vector<int32_t>& wanted) {
  const auto differing = std::ranges::mismatch(cached, wanted).in2;
  auto common = static_cast<size_t>(differing - wanted.begin());
  if (common == wanted.size()) --common;
  session.rewind(static_cast<int64_t>(common));
  return std::span(wanted).subspan(common);
}

}  // namespace

void run_chat(Session& session, Sampler& sampler, const Tokenizer& tokenizer,
              const ChatFormat& format, const ChatOptions& options, const ChatIo& io,
              Stats& stats) {
  if (!format.reducible()) {
    throw Error("this model's chat template cannot be used: " + format.reason() +
                "; use -m generate");
  }
  std::vector<Message> conversation;
  if (options.system_prompt) conversation.push_back({"system", *options.system_prompt});
  std::vector<int32_t> cached;  // the tokens at the session's positions

  std::optional<std::string> first = options.first_turn;
  while (auto turn = next_turn(first, io)) {
    conversation.push_back({"user", *turn});
    const auto wanted = format.encode(conversation, /*generation_prompt=*/true, tokenizer);
    if (std::ssize(wanted) >= session.context_length()) {
      io.notice("the context of " + std::to_string(session.context_length()) +
                " tokens is full: start a new chat, or export with a larger --max-seq-length");
      return;
    }

    TextStream text(tokenizer, options.stop_strings, wanted, TextStream::Start::fresh);
    std::string reply;
    const auto show = [&](const std::string& piece) {
      reply += piece;
      io.write(piece);
    };
    std::vector<int32_t> generated;
    const GenerateResult result =
        generate(session, sampler, rewind_to_common(session, cached, wanted), options.generate,
                 [&](int32_t token) {
                   stats.note_token();
                   generated.push_back(token);
                   show(text.push(token));
                   return !text.stopped();
                 });
    stats.add(result);
    show(text.finish());
    io.write("\n");
    if (result.reason == StopReason::interrupted) return;
    if (result.reason == StopReason::context) {
      io.notice("the context of " + std::to_string(session.context_length()) +
                " tokens is full: start a new chat, or export with a larger --max-seq-length");
      return;
    }

    conversation.push_back({"assistant", reply});
    cached = wanted;
    cached.insert(cached.end(), generated.begin(), generated.end());
    cached.resize(static_cast<size_t>(session.position()));  // the last one was not run
  }
}

}  // namespace runner
