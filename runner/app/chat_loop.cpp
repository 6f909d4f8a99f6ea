#include "app/chat_loop.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "app/chat_commands.h"
#include "app/thoughts.h"
#include "decode/conversation.h"
#include "decode/transcript.h"
#include "system/error.h"

namespace runner {
namespace {

// One chat: what was said, and the conversation that has run a part of it.
class Chat {
 public:
  Chat(Conversation& conversation, Sampler& sampler, const Tokenizer& tokenizer, const ChatTemplate& chat,
       const ChatOptions& options, const ChatIo& io, Stats& stats)
      : conversation_(conversation),
        sampler_(sampler),
        tokenizer_(tokenizer),
        template_(chat),
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
    return template_.encode(transcript, /*generation_prompt=*/true, options_.inputs, tokenizer_);
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
    transcript_.push_back({"user", turn});
    std::vector<int32_t> prompt;
    try {
      prompt = encode(transcript_);
      if (!fits(prompt)) throw Error(what_does_not_fit(prompt));
      conversation_.check(prompt);  // a tokenizer may have more tokens than the model
    } catch (const Error& error) {
      refuse(error.what());
      transcript_.pop_back();
      return;
    }
    auto [reply, message] = answer(prompt);
    if (io_.forget_interrupt) io_.forget_interrupt();
    if (reply.counts.reason == StopReason::interrupted) {
      result_.interrupted = true;
      if (reply.tokens.empty()) {
        io_.notice("nothing of the reply was written: the turn is left out");
        transcript_.pop_back();
        return;
      }
    }
    transcript_.push_back(std::move(message));
    if (const std::string why = refusal(transcript_); !why.empty()) {
      io_.notice("the turn is left out, since no other can follow on the reply: " + why);
      transcript_.resize(transcript_.size() - 2);
      return;
    }
    if (reply.counts.reason == StopReason::context) {
      io_.notice("the context of " + std::to_string(context_length()) +
                 " tokens is full: /clear begins anew, /save FILE keeps what was said; or " +
                 conversation_.session().longer_context());
    }
  }

  // Why the template does not go on from there; "" where it does.
  std::string refusal(Transcript transcript) const {
    transcript.push_back({"user", "?"});
    try {
      encode(transcript);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }

  // Writes what the model answers; returns it, also as a message of the transcript.
  std::pair<Reply, Message> answer(const std::vector<int32_t>& prompt) {
    const ReplyOptions options{options_.generate, options_.stop_strings, TextStream::Start::fresh};
    Thoughts thoughts(template_, tokenizer_, prompt, options_.dims_thoughts, io_.write);
    const auto on_token = [&](int32_t token) {
      stats_.note_token();
      thoughts.note_token(token);
    };
    Reply reply = conversation_.reply(prompt, sampler_, options,
                                      {on_token, [&](const std::string& text) { thoughts.push(text); }});
    thoughts.finish();
    stats_.add(reply.counts);
    io_.write("\n");
    return {std::move(reply), thoughts.message()};
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
  const ChatTemplate& template_;
  const ChatOptions& options_;
  const ChatIo& io_;
  Stats& stats_;
  Transcript transcript_;
  ChatResult result_;
};

}  // namespace

ChatResult run_chat(Conversation& conversation, Sampler& sampler, const Tokenizer& tokenizer,
                    const ChatTemplate& chat, const ChatOptions& options, const ChatIo& io,
                    Stats& stats) {
  if (!chat.usable()) {
    throw Error("this model's chat template cannot be used: " + chat.reason() + "; use -m generate");
  }
  return Chat(conversation, sampler, tokenizer, chat, options, io, stats).run();
}

}  // namespace runner
