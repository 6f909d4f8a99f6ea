#include "app/chat_loop.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "app/chat_commands.h"
#include "decode/conversation.h"
#include "decode/text_stream.h"
#include "system/error.h"

namespace runner {
namespace {

// What a model says to one turn.
struct Reply {
  std::string text;
  std::vector<int32_t> tokens;
  StopReason reason;
};

// One chat: the conversation, and the session that has run a part of it.
class Chat {
 public:
  Chat(Session& session, Sampler& sampler, const Tokenizer& tokenizer, const ChatFormat& format,
       const ChatOptions& options, const ChatIo& io, Stats& stats)
      : session_(session),
        sampler_(sampler),
        tokenizer_(tokenizer),
        format_(format),
        options_(options),
        io_(io),
        stats_(stats) {
    set_system_prompt(conversation_, options.system_prompt);
  }

  ChatResult run() {
    if (options_.system_prompt) check(conversation_);
    if (options_.first_turn) take_first_turn(*options_.first_turn);
    while (const auto input = read_turn(io_.read_line, options_.generate.interrupted)) {
      if (!input->is_command) {
        take_turn(input->text);
      } else if (take_command(input->text) == CommandResult::quit) {
        break;
      }
    }
    return result_;
  }

 private:
  int64_t context_length() const { return session_.context_length(); }

  std::vector<int32_t> encode(const Conversation& conversation) const {
    return format_.encode(conversation, /*generation_prompt=*/true, tokenizer_);
  }

  // Whether there is room for a token of the reply.
  bool fits(const std::vector<int32_t>& prompt) const {
    return std::ssize(prompt) < context_length();
  }

  void take_first_turn(std::string turn) {
    turn.erase(turn.find_last_not_of("\r\n") + 1);
    if (turn.find_first_not_of(" \t\r\n") != std::string::npos) take_turn(turn);
  }

  // Throws Error where no short turn can follow on `conversation`.
  void check(const Conversation& conversation) const {
    Conversation next = conversation;
    next.push_back({"user", "?"});
    const auto prompt = encode(next);
    if (fits(prompt)) return;
    throw Error("the conversation needs " + std::to_string(prompt.size()) +
                " tokens and a reply at least one more, the context holds " +
                std::to_string(context_length()));
  }

  CommandResult take_command(const std::string& line) {
    const auto check_changed = [this](const Conversation& changed) { check(changed); };
    const CommandResult done = run_command(line, {conversation_, check_changed, io_.notice});
    if (done == CommandResult::refused) result_.refused = true;
    return done;
  }

  void refuse(const std::string& why) {
    io_.notice(why);
    result_.refused = true;
  }

  void take_turn(const std::string& turn) {
    if (const auto why = format_.refusal({"user", turn})) return refuse("the turn " + *why);
    conversation_.push_back({"user", turn});
    const auto prompt = encode(conversation_);
    if (!fits(prompt)) {
      refuse(what_does_not_fit(prompt));
      conversation_.pop_back();
      return;
    }
    const size_t common = rewind_to_common(prompt);
    const std::span<const int32_t> rest = std::span(prompt).subspan(common);
    try {
      session_.check(rest);  // a tokenizer may have more tokens than the model
    } catch (const Error& error) {
      refuse(error.what());
      conversation_.pop_back();
      return;
    }
    const Reply reply = answer(prompt, rest);
    if (io_.forget_interrupt) io_.forget_interrupt();
    if (reply.reason == StopReason::interrupted) {
      result_.interrupted = true;
      if (reply.tokens.empty()) {
        io_.notice("nothing of the reply was written: the turn is left out");
        conversation_.pop_back();
        return;
      }
    }
    if (const auto why = format_.refusal({"assistant", reply.text})) {
      io_.notice("the reply holds no text, from which this model's chat template does not go on: "
                 "the turn is left out");
      conversation_.pop_back();
      return;
    }
    conversation_.push_back({"assistant", reply.text});
    if (reply.reason == StopReason::context) {
      io_.notice("the context of " + std::to_string(context_length()) +
                 " tokens is full: /clear begins anew, /save FILE keeps what was said; or export "
                 "with a larger --max-seq-length");
    }
  }

  // Runs `rest`, what the cache does not hold of `prompt`, and writes what the model answers.
  Reply answer(const std::vector<int32_t>& prompt, std::span<const int32_t> rest) {
    TextStream text(tokenizer_, options_.stop_strings, prompt, TextStream::Start::fresh);
    Reply reply;
    const auto show = [&](const std::string& piece) {
      reply.text += piece;
      io_.write(piece);
    };
    const GenerateResult result =
        generate(session_, sampler_, rest, options_.generate, [&](int32_t token) {
          stats_.note_token();
          reply.tokens.push_back(token);
          show(text.push(token));
          return !text.stopped();
        });
    stats_.add(result);
    show(text.finish());
    io_.write("\n");
    reply.reason = result.reason;
    return reply;
  }

  size_t common_with_cache(const std::vector<int32_t>& prompt) const {
    return static_cast<size_t>(std::ranges::mismatch(session_.tokens(), prompt).in2 - prompt.begin());
  }

  // Rewinds the session to where `prompt` departs from it, at the latest before the last token.
  size_t rewind_to_common(const std::vector<int32_t>& prompt) {
    const size_t common = std::min(common_with_cache(prompt), prompt.size() - 1);
    session_.rewind(static_cast<int64_t>(common));
    return common;
  }

  std::string what_does_not_fit(const std::vector<int32_t>& prompt) const {
    const auto held = static_cast<int64_t>(common_with_cache(prompt));
    Conversation alone = conversation_;
    clear_turns(alone);
    alone.push_back(conversation_.back());
    const bool fits_alone = fits(encode(alone));
    return "the turn needs " + std::to_string(std::ssize(prompt) - held) +
           " tokens and a reply at least one more, " + std::to_string(context_length() - held) +
           " are left of " + std::to_string(context_length()) + ": shorten it, or " +
           (fits_alone ? "begin anew with /clear" : "export with a larger --max-seq-length");
  }

  Session& session_;
  Sampler& sampler_;
  const Tokenizer& tokenizer_;
  const ChatFormat& format_;
  const ChatOptions& options_;
  const ChatIo& io_;
  Stats& stats_;
  Conversation conversation_;
  ChatResult result_;
};

}  // namespace

ChatResult run_chat(Session& session, Sampler& sampler, const Tokenizer& tokenizer,
                    const ChatFormat& format, const ChatOptions& options, const ChatIo& io,
                    Stats& stats) {
  if (!format.reducible()) {
    throw Error("this model's chat template cannot be used: " + format.reason() +
                "; use -m generate");
  }
  return Chat(session, sampler, tokenizer, format, options, io, stats).run();
}

}  // namespace runner
