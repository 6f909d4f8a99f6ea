#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runner/tokenizer.h"

namespace runner {

struct Message {
  std::string role;  // "system" (first only), "user", "assistant"
  std::string content;
};

// The chat format that the exporter made of a model's Jinja template (exporter/chat.py says what
// each field means). A message's content never becomes a special token.
class ChatFormat {
 public:
  // Throws Error when the JSON is not a chat format.
  static ChatFormat from_json(std::string_view json);

  bool reducible() const { return reason_.empty(); }
  const std::string& reason() const { return reason_; }  // why not; "" when reducible

  // The ids of a whole conversation: a system message if there is one, then user and assistant in
  // turn; with `generation_prompt`, what makes the model answer. Throws Error when the format is
  // not reducible, has no place for a system message, or the roles are in another order.
  std::vector<int32_t> encode(const std::vector<Message>& messages, bool generation_prompt,
                              const Tokenizer& tokenizer) const;

 private:
  enum class Placement { none, turn, first_user, last_user };
  struct Role {
    std::string prefix, suffix;
    bool strip = false;
  };

  void append_user(const std::string& content, const Message* system,
                   std::vector<TextSpan>& spans) const;

  std::string reason_;
  std::string begin_;
  std::string generation_prompt_;
  Placement placement_ = Placement::none;
  bool has_default_ = false;
  std::string default_system_;
  Role system_, user_, assistant_;
  bool strip_folded_ = false;  // user_.strip acts on system text and content together
};

}  // namespace runner
