#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace runner {

struct Message {
  std::string role;  // "system" (first only), "user", "assistant"
  std::string content;
};

enum class Trim { none, newlines, white_space };

// What is dropped at the two ends of a text.
struct Strip {
  Trim left = Trim::none, right = Trim::none;
};

// Of a content that holds `after`, only what follows the last one stays, stripped.
struct Cut {
  std::string after;
  Strip strip;
};

// What stands around the contents of one role, and what becomes of them.
struct RoleFormat {
  std::string prefix, suffix;
  Strip strip;
  std::optional<Cut> cut;
};

// The chat format that the exporter made of a model's Jinja template (exporter/chat/reduce.py says what
// each field means). A message's content never becomes a special token.
class ChatFormat {
 public:
  // Throws Error when the JSON is not a chat format.
  static ChatFormat from_json(std::string_view json);

  bool reducible() const { return reason_.empty(); }
  const std::string& reason() const { return reason_; }  // why not; "" when reducible

  // Why a message cannot be in a conversation whatever stands around it: "holds ...". None mostly.
  std::optional<std::string> refusal(const Message& message) const;

  // The ids of a whole conversation: a system message if there is one, then user and assistant in
  // turn; with `generation_prompt`, what makes the model answer. The exporter compared
  // conversations that end with a user's turn and the generation prompt. Throws Error when the
  // format is not reducible, has no place for a system message, refuses a content, or the roles are
  // in another order.
  std::vector<int32_t> encode(const std::vector<Message>& messages, bool generation_prompt,
                              const Tokenizer& tokenizer) const;

 private:
  enum class Placement { none, turn, first_user, last_user };
  void append_user(const std::string& content, const Message* system,
                   std::vector<TextSpan>& spans) const;

  std::string reason_;
  std::string begin_;
  std::string generation_prompt_;
  Placement placement_ = Placement::none;
  std::optional<std::string> default_system_;
  bool blank_system_is_none_ = false;
  RoleFormat system_, user_, assistant_;
  bool strip_folded_ = false;  // user_.strip acts on system text and content together
  // By role, texts that the template takes for more than text; "" is white space alone.
  std::map<std::string, std::vector<std::string>> refused_;
};

}  // namespace runner
