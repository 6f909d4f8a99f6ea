#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template_evaluator.h"
#include "text/tokenizer.h"

namespace runner {

struct Message {
  std::string role;        // "system", "user", "assistant", "tool", ...
  std::string content;
  std::string fields = {};  // what else it has, and a content that is no text: a JSON object, or ""
};

// What stands before a thought in a reply, and before what is none of it.
struct ThoughtMarks {
  std::vector<std::string> thought = {}, answer = {};
  // Whether thoughts and their marks are parts of a message's content, as templates with <think> have it;
  // otherwise thoughts are a field of their own, and no part has marks (gpt-oss's channels).
  bool in_content = true;
};

// What a template may know beside the messages.
struct ChatInputs {
  std::vector<std::pair<std::string, templates::Value>> variables = {};  // tools, enable_thinking, ...
  std::optional<std::tm> now = {};                                       // absent: this machine's clock
};

// A model's chat template: the tree that the exporter made of its Jinja template (exporter/chat/tree.py).
// What messages say never becomes a special token.
class ChatTemplate {
 public:
  // Throws Error when the JSON is no chat template.
  static ChatTemplate from_json(std::string_view json);

  bool usable() const { return reason_.empty(); }
  const std::string& reason() const { return reason_; }  // why not; "" when usable
  // Whether the template asks for a variable, such as "tools".
  bool takes(std::string_view variable) const;
  // Whether it asks for the present day.
  bool asks_for_day() const { return tree_.asks_for_day(); }
  // Whether any of those by which templates are told to think or not.
  bool takes_thinking() const;
  // None where they are not known.
  const ThoughtMarks& thought_marks() const { return thought_marks_; }

  // The ids of a conversation; with `generation_prompt`, with what makes the model answer. Throws
  // Error when the template is not usable, refuses the conversation, or fails; where a role is no
  // plain word.
  std::vector<int32_t> encode(const std::vector<Message>& messages, bool generation_prompt,
                              const ChatInputs& inputs, const Tokenizer& tokenizer) const;
  // The same of a list of objects, each with a "role".
  std::vector<int32_t> encode(const templates::Value& messages, bool generation_prompt,
                              const ChatInputs& inputs, const Tokenizer& tokenizer) const;

 private:
  std::string reason_;
  ThoughtMarks thought_marks_;
  std::vector<std::string> inputs_;
  templates::Tree tree_;
};

// Messages as a template takes them. Throws Error where `fields` are no JSON object.
templates::Value value_of(const std::vector<Message>& messages);

// Tells the template to think or not to, by the names that templates know.
void set_thinking(ChatInputs& inputs, bool on);

// The day, "2024-07-26"; none where it is written otherwise.
std::optional<std::tm> day_of(std::string_view text);

}  // namespace runner
