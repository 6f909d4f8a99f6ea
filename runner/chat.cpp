#include "runner/chat.h"

#include <nlohmann/json.hpp>
#include <ranges>
#include <span>

#include "runner/error.h"
#include "runner/utf8.h"

namespace runner {
namespace {

constexpr const char* kTurns[] = {"user", "assistant"};

void check_roles(const std::vector<Message>& messages, size_t first) {
  for (size_t i = first; i < messages.size(); ++i) {
    if (messages[i].role != kTurns[(i - first) % 2]) {
      throw Error("message " + std::to_string(i + 1) + " of the chat is of role '" +
                  messages[i].role + "'; user and assistant must take turns, user first");
    }
  }
}

// Strips the text that the spans make together.
void strip(std::span<TextSpan> spans) {
  for (TextSpan& span : spans) {
    span.text = strip_left(to_valid_utf8(span.text));
    if (!span.text.empty()) break;
  }
  for (TextSpan& span : spans | std::views::reverse) {
    span.text = strip_right(to_valid_utf8(span.text));
    if (!span.text.empty()) break;
  }
}

template <class Role>
void append(const Role& role, const std::string& content, std::vector<TextSpan>& spans) {
  spans.push_back({role.prefix, true});
  spans.push_back({content, false});
  if (role.strip) strip(std::span(spans).last(1));
  spans.push_back({role.suffix, true});
}

}  // namespace

ChatFormat ChatFormat::from_json(std::string_view json) {
  try {
    const auto root = nlohmann::json::parse(json);
    ChatFormat format;
    if (!root.at("reducible").get<bool>()) {
      format.reason_ = root.value("reason", "");
      if (format.reason_.empty()) format.reason_ = "its template could not be reduced at export";
      return format;
    }
    const auto role = [&](const char* name) {
      const auto& from = root.at(name);
      return Role{from.at("prefix"), from.at("suffix"), from.at("strip")};
    };
    root.at("begin").get_to(format.begin_);
    root.at("generation_prompt").get_to(format.generation_prompt_);
    root.at("strip_folded").get_to(format.strip_folded_);
    format.user_ = role("user");
    format.assistant_ = role("assistant");
    const auto& system = root.at("system");
    const auto placement = system.at("placement").get<std::string>();
    if (placement == "none") return format;
    format.system_ = role("system");
    if (placement == "turn") {
      format.placement_ = Placement::turn;
    } else if (placement == "first_user") {
      format.placement_ = Placement::first_user;
    } else if (placement == "last_user") {
      format.placement_ = Placement::last_user;
    } else {
      throw Error("the artifact's chat format puts a system message at '" + placement +
                  "', which this runner does not know; use the runner of the exporter's version");
    }
    if (const auto& text = system.at("default"); !text.is_null()) {
      format.has_default_ = true;
      text.get_to(format.default_system_);
    }
    return format;
  } catch (const nlohmann::json::exception& error) {
    throw Error(std::string("the artifact's chat format is damaged: ") + error.what() +
                "; export the model again");
  }
}

std::vector<int32_t> ChatFormat::encode(const std::vector<Message>& messages,
                                        bool generation_prompt, const Tokenizer& tokenizer) const {
  if (!reducible()) {
    throw Error("this model's chat template cannot be used: " + reason_ + "; use -m generate");
  }
  const bool has_system = !messages.empty() && messages[0].role == "system";
  if (has_system && placement_ == Placement::none) {
    throw Error("this model's chat template takes no system prompt; leave out -y");
  }
  const size_t first = has_system ? 1 : 0;
  if (messages.size() == first) {
    throw Error("the chat has no message of the user; give one with -i");
  }
  check_roles(messages, first);

  std::vector<TextSpan> spans{{begin_, true}};
  if (placement_ == Placement::turn) {
    if (has_system) {
      append(system_, messages[0].content, spans);
    } else if (has_default_) {
      append(system_, default_system_, spans);
    }
  }
  const size_t last_user = (messages.size() - first - 1) / 2 * 2 + first;
  const size_t folded_at = placement_ == Placement::first_user ? first : last_user;
  const bool folds = has_system && placement_ != Placement::turn;
  for (size_t i = first; i < messages.size(); ++i) {
    if ((i - first) % 2 == 0) {
      append_user(messages[i].content, folds && i == folded_at ? &messages[0] : nullptr, spans);
    } else {
      append(assistant_, messages[i].content, spans);
    }
  }
  if (generation_prompt) spans.push_back({generation_prompt_, true});
  return tokenizer.encode(spans);
}

// A system message is put before the content of the one user turn that carries it.
void ChatFormat::append_user(const std::string& content, const Message* system,
                             std::vector<TextSpan>& spans) const {
  std::vector<TextSpan> inner;
  if (system) append(system_, system->content, inner);
  inner.push_back({content, false});
  if (user_.strip) strip(std::span(inner).subspan(strip_folded_ ? 0 : inner.size() - 1));
  spans.push_back({user_.prefix, true});
  spans.insert(spans.end(), inner.begin(), inner.end());
  spans.push_back({user_.suffix, true});
}

}  // namespace runner
