#include "text/tokenizer_json_parts.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "system/error.h"
#include "text/split_pattern.h"
#include "text/tokenizer_raw.h"
#include "text/utf8.h"

namespace runner {
namespace {

using nlohmann::json;

[[noreturn]] void unsupported(const std::string& role, const json& component) {
  json options = component;
  options.erase("type");
  throw Error(role + " " + component.at("type").get<std::string>() + " with " + options.dump() +
              " is not supported");
}

// The components of a possibly nested Sequence, in order.
void collect(const json& component, const char* key, std::vector<json>& members) {
  if (component.is_null()) return;
  if (component.at("type") == "Sequence") {
    for (const json& member : component.at(key)) collect(member, key, members);
  } else {
    members.push_back(component);
  }
}

std::vector<json> members_of(const json& component, const char* key) {
  std::vector<json> members;
  collect(component, key, members);
  return members;
}

bool is_literal(const json& pattern, std::string_view text) {
  return pattern == json{{"String", text}};
}

uint32_t metaspace_prefix(const json& member) {
  std::string scheme = member.value("add_prefix_space", true) ? "always" : "never";
  if (const json named = member.value("prepend_scheme", json()); !named.is_null()) {
    named.get_to(scheme);
  }
  if (scheme == "always") return kPrefixSpace;
  if (scheme == "first") return kPrefixSpace | kPrefixFirstOnly;
  if (scheme != "never") unsupported("pre-tokenizer", member);
  return 0;
}

// A pattern that matches `text` in both regular expression libraries.
std::string literal_pattern(const std::string& text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte >= 0x80 || std::isalnum(byte)) {
      out += c;
    } else {
      out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return out;
}

// A pattern for PCRE2, which does not know Oniguruma's \uHHHH.
std::string regex_of(const json& pattern) {
  const auto& text = pattern.at("Regex").get_ref<const std::string&>();
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    const std::string digits = text.substr(i + 1, 5);
    uint32_t code = 0;
    const char* end = digits.data() + digits.size();
    if (digits[0] == 'u' && digits.size() == 5 && std::from_chars(digits.data() + 1, end, code, 16).ptr == end &&
        (code < 0xD800 || code >= 0xE000)) {
      std::string character;
      append_utf8(character, code);
      out += literal_pattern(character);
      i += digits.size();
    } else {
      out += {text[i], text[++i]};
    }
  }
  return out;
}

std::string pattern_of(const json& pattern) {
  return pattern.contains("Regex") ? regex_of(pattern) : literal_pattern(pattern.at("String").get<std::string>());
}

// Adds the pattern whose parts are those that a behaviour makes of the matches of `text`. To invert is to take
// what lies between matches for the matches.
void add_split(const json& member, const std::string& text, const std::string& behavior, bool invert,
               PreTokenizer& out) {
  const bool previous = behavior == (invert ? "MergedWithNext" : "MergedWithPrevious");
  const bool next = behavior == (invert ? "MergedWithPrevious" : "MergedWithNext");
  SplitKind kind = SplitKind::all;
  std::string pattern = text;
  if (behavior == "Removed") {
    kind = invert ? SplitKind::matches : SplitKind::between;
  } else if (behavior == "Contiguous") {
    pattern = "(?>" + text + ")++";
  } else if (previous) {  // \G: a part begins where the last one ended, so that a text is looked through once
    pattern = "\\G(?s:.*?)(?:" + text + ")";
  } else if (next) {
    pattern = "(?>" + text + ")(?:(?!" + text + ")(?s:.))*+";
  } else if (behavior != "Isolated") {
    unsupported("pre-tokenizer", member);
  }
  out.splits.push_back(std::move(pattern));
  out.kinds.push_back(kind);
}

}  // namespace

const json& part(const json& root, const char* key) {
  static const json null;
  const auto found = root.find(key);
  return found == root.end() ? null : *found;
}

Normalizer normalizer(const json& component) {
  Normalizer out;
  const auto replace = [&](std::string pattern, std::string content) {
    out.replacements.push_back({(out.flags & kNfc) != 0, std::move(pattern), std::move(content)});
    out.flags |= kReplacements;
  };
  for (const json& member : members_of(component, "normalizers")) {
    const json& type = member.at("type");
    const bool prepends = type == "Prepend" && member.at("prepend") == kSpaceMark;
    const bool escapes = type == "Replace" && is_literal(member.at("pattern"), " ") &&
                         member.at("content") == kSpaceMark;
    const bool spaces_are_done = out.flags & (kPrefixSpace | kEscapeSpaces);
    if (type == "NFC") {  // anywhere: no mark combines with a space or a space mark
      out.flags |= kNfc;
    } else if (prepends && !spaces_are_done) {
      out.flags |= kPrefixSpace;
    } else if (escapes && !(out.flags & kEscapeSpaces)) {
      out.flags |= kEscapeSpaces;
    } else if (type == "Strip" && !spaces_are_done) {
      // A run of white space is looked at from its begin alone.
      if (member.at("strip_left").get<bool>()) replace("\\A\\s+", "");
      if (member.at("strip_right").get<bool>()) replace("(?<!\\s)\\s++\\z", "");
    } else if (type == "Replace" && !escapes && !spaces_are_done) {
      std::string pattern = pattern_of(member.at("pattern"));
      if (SplitPattern(pattern).matches_nothing()) {
        unsupported("a pattern that can match nothing: normalizer", member);
      }
      replace(std::move(pattern), member.at("content").get<std::string>());
    } else {
      unsupported("normalizer", member);
    }
  }
  return out;
}

PreTokenizer pre_tokenizer(const json& component, bool no_spaces) {
  PreTokenizer out;
  const auto add = [&](std::string pattern) {
    out.splits.push_back(std::move(pattern));
    out.kinds.push_back(SplitKind::all);
  };
  for (const json& member : members_of(component, "pretokenizers")) {
    const json& type = member.at("type");
    if (out.flags) unsupported("a pre-tokenizer after ByteLevel or Metaspace:", member);
    if (type == "ByteLevel" && !member.at("add_prefix_space").get<bool>()) {
      out.flags |= kByteUnits;
      if (member.value("use_regex", true)) add(std::string(kGpt2Pattern));
    } else if (type == "Digits") {
      add(member.at("individual_digits").get<bool>() ? "\\p{N}" : "\\p{N}+");
    } else if (type == "Punctuation") {
      add_split(member, R"([!-/:-@\[-\x60{-~]|\p{P})", member.value("behavior", "Isolated"), false, out);
    } else if (type == "Split") {
      const json& pattern = member.at("pattern");
      const auto behavior = member.at("behavior").get<std::string>();
      const bool invert = member.at("invert").get<bool>();
      if (no_spaces && is_literal(pattern, " ") && !invert) continue;  // as Gemma's, which never matches
      add_split(member, pattern_of(pattern), behavior, invert, out);
    } else if (type == "Metaspace" && member.at("replacement") == kSpaceMark && out.splits.empty()) {
      out.flags |= kMetaspace | metaspace_prefix(member);
      const std::string mark(kSpaceMark);
      if (member.value("split", true)) add(mark + "[^" + mark + "]*");
    } else {
      unsupported("pre-tokenizer", member);
    }
  }
  const bool keep_all = std::all_of(out.kinds.begin(), out.kinds.end(),
                                    [](SplitKind kind) { return kind == SplitKind::all; });
  if (keep_all) {
    out.kinds.clear();
  } else {
    out.flags |= kSplitKinds;
  }
  return out;
}

uint32_t decoder_flags(const json& component) {
  uint32_t flags = 0;
  for (const json& member : members_of(component, "decoders")) {
    const json& type = member.at("type");
    if (type == "Metaspace") {
      if (metaspace_prefix(member)) flags |= kStripDecodedSpace;
    } else if (type == "Strip" && member.at("content") == " " && member.at("stop") == 0) {
      if (member.at("start") != 0) flags |= kStripDecodedSpace;
    } else if (type == "Replace") {
      if (!is_literal(member.at("pattern"), kSpaceMark) || member.at("content") != " ") {
        unsupported("decoder", member);
      }
    } else if (type != "ByteLevel" && type != "ByteFallback" && type != "Fuse") {
      unsupported("decoder", member);
    }
  }
  return flags;
}

void check_flags(uint32_t flags) {
  if (flags & kByteUnits && flags & kUnigram) {
    throw Error("a ByteLevel pre-tokenizer with the model Unigram is not supported");
  }
  const uint32_t spaces = flags & (kPrefixSpace | kEscapeSpaces | kMetaspace);
  if (flags & kByteUnits && spaces) {
    throw Error(
        "a ByteLevel pre-tokenizer after a Prepend or Replace normalizer is not supported");
  }
  if (flags & kMetaspace && flags & kEscapeSpaces) {
    throw Error("a Metaspace pre-tokenizer after a Replace normalizer is not supported");
  }
  // tokenizers takes the text's begin for another place where a match lies there.
  if (flags & kReplacements && flags & kMetaspace && flags & kPrefixFirstOnly) {
    throw Error("a Metaspace pre-tokenizer with prepend_scheme 'first' after a Replace or Strip normalizer "
                "is not supported");
  }
  if (spaces == kPrefixSpace) throw Error("a Prepend normalizer without Replace is not supported");
}

std::vector<std::string> prefix_of_post_processor(const json& component) {
  std::vector<std::string> prefix;
  for (const json& member : members_of(component, "processors")) {
    if (member.at("type") == "ByteLevel") continue;
    if (member.at("type") != "TemplateProcessing") unsupported("post-processor", member);
    const json& single = member.at("single");
    const auto text = std::find_if(single.begin(), single.end(),
                                   [](const json& item) { return item.contains("Sequence"); });
    if (text == single.end()) throw Error("post-processor TemplateProcessing without the text is not supported");
    prefix.clear();
    for (auto item = single.begin(); item != text; ++item) {
      prefix.push_back(item->at("SpecialToken").at("id").get<std::string>());
    }
  }
  return prefix;
}

}  // namespace runner
