#include "app/chat_loop.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "app/chat_commands.h"
#include "decode/conversation.h"
#include "decode/transcript.h"
#include "system/error.h"

namespace runner {
namespace {

// One chat: what was said, and the conversation that has run a part of it.
class Chat {
 public:
  Chat(Conversation& conversation, Sampler& sampler, const Tokenizer& tokenizer, const ChatFormat& format,
       const ChatOptions& options, const ChatIo& io, Stats& stats)
      : conversation_(conversation),
        sampler_(sampler),
        tokenizer_(tokenizer),
        format_(format),
        options_(options),
        io_(io),
        stats_(stats) {
    set_system_prompt(transcript_, options.system_prompt);
  }

  ChatResult run() {
    if (options_.system_prompt) check(transcript_);
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
  int64_t context_length() const { return conversation_.session().context_length(); }

  std::vector<int32_t> encode(const Transcript& transcript) const {
    return format_.encode(transcript, /*generation_prompt=*/true, tokenizer_);
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
  void check(const Transcript& transcript) const {
    Transcript next = transcript;
    next.push_back({"user", "?"});
    const auto prompt = encode(next);
    if (fits(prompt)) return;
    throw Error("the conversation needs " + std::to_string(prompt.size()) +
                " tokens and a reply at least one more, the context holds " +
                std::to_string(context_length()));
  }

  CommandResult take_command(const std::string& line) {
    const auto check_changed = [this](const Transcript& changed) { check(changed); };
    const CommandResult done = run_command(line, {transcript_, check_changed, io_.notice});
    if (done == CommandResult::refused) result_.refused = true;
    return done;
  }

  void refuse(const std::string& why) {
    io_.notice(why);
    result_.refused = true;
  }

  void take_turn(const std::string& turn) {
    if (const auto why = format_.refusal({"user", turn})) return refuse("the turn " + *why);
    transcript_.push_back({"user", turn});
    const auto prompt = encode(transcript_);
    if (!fits(prompt)) {
      refuse(what_does_not_fit(prompt));
      transcript_.pop_back();
      return;
    }
    try {
      conversation_.check(prompt);  // a tokenizer may have more tokens than the model
    } catch (const Error& error) {
      refuse(error.what());
      transcript_.pop_back();
      return;
    }
    const Reply reply = answer(prompt);
    if (io_.forget_interrupt) io_.forget_interrupt();
    if (reply.counts.reason == StopReason::interrupted) {
      result_.interrupted = true;
      if (reply.tokens.empty()) {
        io_.notice("nothing of the reply was written: the turn is left out");
        transcript_.pop_back();
        return;
      }
    }
    if (const auto why = format_.refusal({"assistant", reply.text})) {
      io_.notice("the reply holds no text, from which this model's chat template does not go on: "
                 "the turn is left out");
      transcript_.pop_back();
      return;
    }
    transcript_.push_back({"assistant", reply.text});
    if (reply.counts.reason == StopReason::context) {
      io_.notice("the context of " + std::to_string(context_length()) +
                 " tokens is full: /clear begins anew, /save FILE keeps what was said; or " +
                 conversation_.session().longer_context());
    }
  }

  // Writes what the model answers.
  Reply answer(const std::vector<int32_t>& prompt) {
    const ReplyOptions options{options_.generate, options_.stop_strings, TextStream::Start::fresh};
    Reply reply = conversation_.reply(prompt, sampler_, options,
                                      {[this](int32_t) { stats_.note_token(); }, io_.write});
    stats_.add(reply.counts);
    io_.write("\n");
    return reply;
  }

  std::string what_does_not_fit(const std::vector<int32_t>& prompt) const {
    const int64_t held = conversation_.held(prompt);
    Transcript alone = transcript_;
    clear_turns(alone);
    alone.push_back(transcript_.back());
    const bool fits_alone = fits(encode(alone));
    return "the turn needs " + std::to_string(std::ssize(prompt) - held) +
           " tokens and a reply at least one more, " + std::to_string(context_length() - held) +
           " are left of " + std::to_string(context_length()) + ": shorten it, or " +
           (fits_alone ? "begin anew with /clear" : conversation_.session().longer_context());
  }

  Conversation& conversation_;
  Sampler& sampler_;
  const Tokenizer& tokenizer_;
  const ChatFormat& format_;
  const ChatOptions& options_;
  const ChatIo& io_;
  Stats& stats_;
  Transcript transcript_;
  ChatResult result_;
};

}  // namespace

ChatResult run_chat(Conversation& conversation, Sampler& sampler, const Tokenizer& tokenizer,
                    const ChatFormat& format, const ChatOptions& options, const ChatIo& io,
                    Stats& stats) {
  if (!format.reducible()) {
    throw Error("this model's chat template cannot be used: " + format.reason() +
                "; use -m generate");
  }
  return Chat(conversation, sampler, tokenizer, format, options, io, stats).run();
}

}  // namespace runner
