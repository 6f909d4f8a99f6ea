#include "text/chat.h"

#include <nlohmann/json.hpp>
#include <span>

#include "system/error.h"
#include "text/utf8.h"

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

bool is_blank(const std::string& content) { return strip_left(to_valid_utf8(content)).empty(); }

// Text of the format. What follows on it is one text, in which special tokens are found.
void append_markup(const std::string& text, std::vector<TextSpan>& spans) {
  if (text.empty()) return;
  if (!spans.empty() && spans.back().markup) {
    spans.back().text += text;
  } else {
    spans.push_back({text, true});
  }
}

void append_content(std::string text, std::vector<TextSpan>& spans) {
  if (!text.empty()) spans.push_back({std::move(text), false});
}

// A boolean, in artifacts before schema 3, says whether white space is stripped at both ends.
Strip strip_from_json(const nlohmann::json& json) {
  const auto trim = [](const nlohmann::json& value) {
    const auto name = value.get<std::string>();
    if (name == "none") return Trim::none;
    if (name == "newlines") return Trim::newlines;
    if (name == "white_space") return Trim::white_space;
    throw Error("the artifact's chat format strips '" + name +
                "', which this runner does not know; use the runner of the exporter's version");
  };
  if (json.is_boolean()) {
    return json.get<bool>() ? Strip{Trim::white_space, Trim::white_space} : Strip{};
  }
  return {trim(json.at("left")), trim(json.at("right"))};
}

RoleFormat role_from_json(const nlohmann::json& json) {
  RoleFormat role{json.at("prefix"), json.at("suffix"), strip_from_json(json.at("strip")), {}};
  if (const auto cut = json.find("cut"); cut != json.end() && !cut->is_null()) {
    role.cut = Cut{cut->at("after"), strip_from_json(cut->at("strip"))};
  }
  return role;
}

// Strips the text that the spans make together.
void strip(std::span<TextSpan> spans, Strip how) {
  const auto trimmed = [](const std::string& text, Trim trim, bool left) -> std::string {
    if (trim == Trim::white_space) {
      const std::string valid = to_valid_utf8(text);
      return std::string(left ? strip_left(valid) : strip_right(valid));
    }
    const size_t kept = left ? text.find_first_not_of('\n') : text.find_last_not_of('\n');
    if (kept == text.npos) return "";
    return left ? text.substr(kept) : text.substr(0, kept + 1);
  };
  const auto strip_end = [&](auto span, auto end, Trim trim, bool left) {
    if (trim == Trim::none) return;
    for (; span != end; ++span) {
      span->text = trimmed(span->text, trim, left);
      if (!span->text.empty()) return;
    }
  };
  strip_end(spans.begin(), spans.end(), how.left, true);
  strip_end(spans.rbegin(), spans.rend(), how.right, false);
}

void append(const RoleFormat& role, const std::string& content, std::vector<TextSpan>& spans) {
  append_markup(role.prefix, spans);
  TextSpan kept{content, false};
  if (role.cut) {
    if (const size_t at = content.rfind(role.cut->after); at != content.npos) {
      kept.text.erase(0, at + role.cut->after.size());
      strip(std::span(&kept, 1), role.cut->strip);
    }
  }
  strip(std::span(&kept, 1), role.strip);
  append_content(std::move(kept.text), spans);
  append_markup(role.suffix, spans);
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
    root.at("begin").get_to(format.begin_);
    root.at("generation_prompt").get_to(format.generation_prompt_);
    root.at("strip_folded").get_to(format.strip_folded_);
    format.user_ = role_from_json(root.at("user"));
    format.assistant_ = role_from_json(root.at("assistant"));
    format.refused_ = root.value("refused", format.refused_);
    const auto& system = root.at("system");
    const auto placement = system.at("placement").get<std::string>();
    if (placement == "none") return format;
    format.system_ = role_from_json(system);
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
      format.default_system_ = text.get<std::string>();
    }
    format.blank_system_is_none_ = system.value("blank", "kept") == "none";
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
    throw Error("this model's chat template takes no system prompt; leave it out");
  }
  const size_t first = has_system ? 1 : 0;
  if (messages.size() == first) {
    throw Error("the chat has no message of the user; give one with -i");
  }
  check_roles(messages, first);

  for (size_t i = 0; i < messages.size(); ++i) {
    if (const auto why = refusal(messages[i])) {
      throw Error("message " + std::to_string(i + 1) + " of the chat, of role '" +
                  messages[i].role + "', " + *why);
    }
  }

  const bool takes_system = has_system && !(blank_system_is_none_ && is_blank(messages[0].content));
  std::vector<TextSpan> spans;
  append_markup(begin_, spans);
  if (placement_ == Placement::turn) {
    if (takes_system) {
      append(system_, messages[0].content, spans);
    } else if (default_system_) {
      append(system_, *default_system_, spans);
    }
  }
  const size_t last_user = (messages.size() - first - 1) / 2 * 2 + first;
  const size_t folded_at = placement_ == Placement::first_user ? first : last_user;
  const bool folds = takes_system && placement_ != Placement::turn;
  for (size_t i = first; i < messages.size(); ++i) {
    if ((i - first) % 2 == 0) {
      append_user(messages[i].content, folds && i == folded_at ? &messages[0] : nullptr, spans);
    } else {
      append(assistant_, messages[i].content, spans);
    }
  }
  if (generation_prompt) append_markup(generation_prompt_, spans);
  return tokenizer.encode(spans);
}

std::optional<std::string> ChatFormat::refusal(const Message& message) const {
  const auto refused = refused_.find(message.role);
  if (refused == refused_.end()) return std::nullopt;
  for (const std::string& text : refused->second) {
    const bool holds =
        text.empty() ? is_blank(message.content) : message.content.find(text) != text.npos;
    if (!holds) continue;
    return (text.empty() ? "holds no text" : "holds '" + text + "'") +
           std::string(
               ", which this model's chat template refuses or takes for more than text; write it "
               "otherwise");
  }
  return std::nullopt;
}

// A system message is put before the content of the one user turn that carries it.
void ChatFormat::append_user(const std::string& content, const Message* system,
                             std::vector<TextSpan>& spans) const {
  std::vector<TextSpan> inner;
  if (system) append(system_, system->content, inner);
  inner.push_back({content, false});
  strip(std::span(inner).subspan(strip_folded_ ? 0 : inner.size() - 1), user_.strip);
  append_markup(user_.prefix, spans);
  for (TextSpan& span : inner) {
    span.markup ? append_markup(span.text, spans) : append_content(std::move(span.text), spans);
  }
  append_markup(user_.suffix, spans);
}

}  // namespace runner
