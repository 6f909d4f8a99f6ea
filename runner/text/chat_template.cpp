#include "text/chat_template.h"

#include <algorithm>
#include <cstdio>

#include "system/error.h"
#include "text/utf8.h"

namespace runner {
namespace {

using templates::Value;

constexpr std::string_view kThinking[] = {"enable_thinking", "thinking"};

[[noreturn]] void damaged(const std::string& what) {
  throw Error("the artifact's chat template is damaged: " + what + "; export the model again");
}

const Value& member(const Value& object, std::string_view name) {
  const Value* found = object.dict().find(name);
  if (found == nullptr) damaged("it has no '" + std::string(name) + "'");
  return *found;
}

std::vector<std::string> texts(const Value& list) {
  std::vector<std::string> found;
  if (!list.is_list()) damaged("a list is none");
  for (const Value& item : list.list().items) {
    if (!item.is_text()) damaged("a text is none");
    found.emplace_back(item.bytes());
  }
  return found;
}

// A role is written as the template's own text: templates make special tokens of it, such as <|user|>.
Value checked_role(const Value& role) {
  constexpr size_t kLongest = 64;
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  };
  if (!role.is_text() || role.bytes().empty() || role.bytes().size() > kLongest ||
      !std::ranges::all_of(role.bytes(), plain)) {
    throw Error("a message of the chat has " +
                (role.is_text() ? "the role '" + std::string(role.bytes()) + "'" : std::string("no role")) +
                "; give one of letters, digits, _ and -, such as user");
  }
  return templates::text_value(role.bytes(), kMarkup);
}

using Fields = std::vector<std::pair<Value, Value>>;

Fields::iterator field_named(Fields& fields, std::string_view name) {
  return std::ranges::find_if(
      fields, [&](const auto& field) { return field.first.is_text() && field.first.bytes() == name; });
}

// A thought is there under the two names that templates read it by. Source: transformers 5.23,
// utils/chat_template_utils.py, _alias_reasoning_fields.
void name_reasoning(Fields& fields) {
  for (const std::string_view name : {"reasoning_content", "thinking", "reasoning"}) {
    const auto found = field_named(fields, name);
    if (found == fields.end()) continue;
    const Value reasoning = found->second;
    if (const auto thinking = field_named(fields, "thinking"); thinking != fields.end()) {
      std::rotate(fields.begin(), thinking, thinking + 1);
    } else {
      fields.emplace(fields.begin(), templates::text_value("thinking"), reasoning);
    }
    if (const auto standard = field_named(fields, "reasoning_content"); standard != fields.end()) {
      standard->second = reasoning;
    } else {
      fields.emplace_back(templates::text_value("reasoning_content"), reasoning);
    }
    return;
  }
}

// The messages as transformers gives them to a template: without fields that are null.
Value prepared(const Value& messages) {
  if (!messages.is_list() || messages.list().items.empty()) {
    throw Error("the chat has no message; give one with -i");
  }
  std::vector<Value> list;
  for (const Value& message : messages.list().items) {
    if (!message.is_dict()) throw Error("a message of the chat is no object with a role and a content");
    Fields fields = message.dict().items;
    std::erase_if(fields, [](const auto& field) { return field.second.is_none(); });
    const auto role = field_named(fields, "role");
    if (role == fields.end()) throw Error("a message of the chat has no role");
    role->second = checked_role(role->second);
    name_reasoning(fields);
    list.push_back(templates::dict_value(std::move(fields)));
  }
  return templates::list_value(std::move(list));
}

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm found = {};
  localtime_r(&now, &found);
  return found;
}

}  // namespace

ChatTemplate ChatTemplate::from_json(std::string_view json) {
  Value root;
  try {
    root = templates::value_from_json(json, kMarkup);
  } catch (const Error& error) {
    damaged(error.what());
  }
  if (!root.is_dict()) damaged("it is no object");
  ChatTemplate made;
  const Value* reducible = root.dict().find(std::string_view("reducible"));
  if (reducible && is_true(*reducible)) {
    made.reason_ = "an older release exported the model, which stored templates in another form; export it again";
    return made;
  }
  if (const Value* reason = root.dict().find(std::string_view("reason"))) {
    made.reason_ = reason->is_text() && !reason->bytes().empty() ? std::string(reason->bytes())
                                                                 : "its template could not be taken over";
    return made;
  }
  made.tree_ = templates::Tree::from_value(member(root, "tree"));
  made.inputs_ = texts(member(root, "inputs"));
  const std::vector<std::string> thoughts = texts(member(root, "thoughts"));
  if (thoughts.size() == 2) made.thought_marks_ = {{thoughts[0]}, {thoughts[1]}};
  if (const Value* channels = root.dict().find(std::string_view("channels"))) {
    if (!channels->is_dict()) damaged("its channels are no object");
    made.thought_marks_ = {texts(member(*channels, "thought")), texts(member(*channels, "answer")), false};
  }
  for (const auto* marks : {&made.thought_marks_.thought, &made.thought_marks_.answer}) {
    if (std::ranges::any_of(*marks, &std::string::empty)) damaged("a mark of thoughts is empty");
  }
  return made;
}

bool ChatTemplate::takes(std::string_view variable) const {
  return std::ranges::find(inputs_, variable) != inputs_.end();
}

bool ChatTemplate::takes_thinking() const {
  return std::ranges::any_of(kThinking, [this](std::string_view name) { return takes(name); });
}

std::vector<int32_t> ChatTemplate::encode(const std::vector<Message>& messages, bool generation_prompt,
                                          const ChatInputs& inputs, const Tokenizer& tokenizer) const {
  return encode(value_of(messages), generation_prompt, inputs, tokenizer);
}

std::vector<int32_t> ChatTemplate::encode(const Value& messages, bool generation_prompt, const ChatInputs& inputs,
                                          const Tokenizer& tokenizer) const {
  if (!usable()) {
    throw Error("this model's chat template cannot be used: " + reason_ + "; use -m generate");
  }
  templates::Inputs all{.variables = inputs.variables, .now = inputs.now ? *inputs.now : local_time()};
  const auto put = [&](const char* name, Value value) {
    const bool given = std::ranges::any_of(all.variables, [&](const auto& each) { return each.first == name; });
    if (!given) all.variables.emplace_back(name, std::move(value));
  };
  put("messages", prepared(messages));
  put("add_generation_prompt", generation_prompt);
  put("tools", templates::None());
  put("documents", templates::None());
  return tokenizer.encode(templates::evaluate(tree_, all).view());
}

Value value_of(const std::vector<Message>& messages) {
  std::vector<Value> list;
  for (const Message& message : messages) {
    std::vector<std::pair<Value, Value>> fields;
    fields.emplace_back(templates::text_value("role"), templates::text_value(to_valid_utf8(message.role)));
    const Value others = message.fields.empty() ? Value() : templates::value_from_json(message.fields, kContent);
    if (!message.fields.empty() && !others.is_dict()) throw Error("a message's fields are no JSON object");
    if (others.is_undefined() || !others.dict().find(std::string_view("content"))) {
      fields.emplace_back(templates::text_value("content"),
                          templates::text_value(to_valid_utf8(message.content), kContent));
    }
    if (others.is_dict()) fields.insert(fields.end(), others.dict().items.begin(), others.dict().items.end());
    list.push_back(templates::dict_value(std::move(fields)));
  }
  return templates::list_value(std::move(list));
}

void set_thinking(ChatInputs& inputs, bool on) {
  for (const std::string_view name : kThinking) inputs.variables.emplace_back(name, on);
}

std::optional<std::tm> day_of(std::string_view text) {
  int year = 0, month = 0, day = 0, size = 0;
  const std::string given(text);
  if (std::sscanf(given.c_str(), "%4d-%2d-%2d%n", &year, &month, &day, &size) != 3 ||
      static_cast<size_t>(size) != text.size() || text.size() != 10) {
    return std::nullopt;
  }
  std::tm found = {};
  found.tm_year = year - 1900;
  found.tm_mon = month - 1;
  found.tm_mday = day;
  found.tm_hour = 12;  // so that no change of the clock moves the day
  found.tm_isdst = -1;
  std::tm same = found;
  if (std::mktime(&same) == -1 || same.tm_mon != month - 1 || same.tm_mday != day) return std::nullopt;
  same.tm_hour = 0;
  return same;
}

}  // namespace runner
