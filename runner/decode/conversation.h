#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "decode/generate.h"
#include "decode/text_stream.h"
#include "model/session.h"
#include "text/tokenizer.h"

namespace runner {

struct ReplyOptions {
  GenerateOptions generate = {};
  std::vector<std::string> stop_strings = {};
  TextStream::Start start = TextStream::Start::inside;
};

// Who hears of a reply as it comes; either may be empty.
struct ReplyListener {
  std::function<void(int32_t)> on_token = {};           // each token, as soon as it is chosen
  std::function<void(const std::string&)> on_text = {};  // whole characters
};

struct Reply {
  std::string text;
  std::vector<int32_t> tokens;  // without a stop token, with those of a stop string
  GenerateResult counts;
};

// One text of prompts and replies: a session, and the tokenizer that its tokens are of.
class Conversation {
 public:
  // `tokenizer` must outlive it.
  Conversation(Session session, const Tokenizer& tokenizer)
      : session_(std::move(session)), tokenizer_(tokenizer) {}

  Session& session() { return session_; }
  const Session& session() const { return session_; }

  // One that has read the same. Throws StateError when the state has no session left.
  Conversation fork() const { return {session_.fork(), tokenizer_}; }

  // How many tokens `prompt` begins with that the session holds.
  int64_t held(std::span<const int32_t> prompt) const;

  // Throws Error where reply() could not run `prompt`; nothing has changed.
  void check(std::span<const int32_t> prompt) const;

  // Makes the session's tokens those of `prompt`, all of a text, of which what it holds is not run again,
  // and writes what follows. Throws Error when it does not fit the context.
  Reply reply(std::span<const int32_t> prompt, Sampler& sampler, const ReplyOptions& options,
              const ReplyListener& listener = {});

  // Replies to one prompt, one for each sampler, generated together in sessions of their own; each is what
  // it would be alone. The listener hears of the first. Throws Error, before anything is run, when the
  // state has too few sessions.
  std::vector<Reply> replies(std::span<const int32_t> prompt, std::span<Sampler> samplers,
                             const ReplyOptions& options, const ReplyListener& listener = {});

 private:
  int64_t kept(std::span<const int32_t> prompt) const;

  Session session_;
  const Tokenizer& tokenizer_;
};

}  // namespace runner
