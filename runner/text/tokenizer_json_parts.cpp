#include "text/tokenizer_json_parts.h"

#include <nlohmann/json.hpp>

#include "system/error.h"
#include "text/tokenizer_raw.h"

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

bool merges_with_previous(const json& split) {
  return split.at("behavior") == "MergedWithPrevious";
}

// A pattern that matches `text` in both regular expression libraries.
std::string quoted(const std::string& text) {
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

}  // namespace

const json& part(const json& root, const char* key) {
  static const json null;
  const auto found = root.find(key);
  return found == root.end() ? null : *found;
}

uint32_t normalizer_flags(const json& component) {
  uint32_t flags = 0;
  for (const json& member : members_of(component, "normalizers")) {
    const json& type = member.at("type");
    if (type == "NFC") {
      throw Error(
          "normalizer NFC is in exported tables only: export the model with this tokenizer");
    }
    const bool prepends = type == "Prepend" && member.at("prepend") == kSpaceMark;
    const bool escapes = type == "Replace" && is_literal(member.at("pattern"), " ") &&
                         member.at("content") == kSpaceMark;
    if (prepends && flags == 0) {
      flags |= kPrefixSpace;
    } else if (escapes && !(flags & kEscapeSpaces)) {
      flags |= kEscapeSpaces;
    } else {
      unsupported("normalizer", member);
    }
  }
  return flags;
}

PreTokenizer pre_tokenizer(const json& component, bool no_spaces) {
  PreTokenizer out;
  for (const json& member : members_of(component, "pretokenizers")) {
    const json& type = member.at("type");
    if (out.flags) unsupported("a pre-tokenizer after ByteLevel or Metaspace:", member);
    if (type == "ByteLevel" && !member.at("add_prefix_space").get<bool>()) {
      out.flags |= kByteUnits;
      if (member.value("use_regex", true)) out.splits.emplace_back(kGpt2Pattern);
    } else if (type == "Digits") {
      out.splits.push_back(member.at("individual_digits").get<bool>() ? "\\p{N}" : "\\p{N}+");
    } else if (type == "Split" && !member.at("invert").get<bool>() &&
               (member.at("behavior") == "Isolated" || merges_with_previous(member))) {
      const json& pattern = member.at("pattern");
      if (no_spaces && is_literal(pattern, " ")) continue;  // as Gemma's, which never matches
      const std::string text = pattern.contains("Regex")
                                   ? pattern.at("Regex").get<std::string>()
                                   : quoted(pattern.at("String").get<std::string>());
      out.splits.push_back(merges_with_previous(member) ? "\\G(?s:.*?)(?:" + text + ")" : text);
    } else if (type == "Metaspace" && member.at("replacement") == kSpaceMark &&
               out.splits.empty()) {
      out.flags |= kMetaspace | metaspace_prefix(member);
      const std::string mark(kSpaceMark);
      if (member.value("split", true)) out.splits.push_back(mark + "[^" + mark + "]*");
    } else {
      unsupported("pre-tokenizer", member);
    }
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

void check_space_flags(uint32_t flags) {
  const uint32_t spaces = flags & (kPrefixSpace | kEscapeSpaces | kMetaspace);
  if (flags & kByteUnits && spaces) {
    throw Error(
        "a ByteLevel pre-tokenizer after a Prepend or Replace normalizer is not supported");
  }
  if (flags & kMetaspace && flags & kEscapeSpaces) {
    throw Error("a Metaspace pre-tokenizer after a Replace normalizer is not supported");
  }
  if (spaces == kPrefixSpace) throw Error("a Prepend normalizer without Replace is not supported");
}

std::optional<std::string> bos_of_post_processor(const json& component) {
  std::optional<std::string> bos;
  for (const json& member : members_of(component, "processors")) {
    if (member.at("type") == "ByteLevel") continue;
    if (member.at("type") != "TemplateProcessing") unsupported("post-processor", member);
    const json& single = member.at("single");
    if (single.size() == 2 && single[0].contains("SpecialToken") &&
        single[1].contains("Sequence")) {
      bos = single[0]["SpecialToken"].at("id").get<std::string>();
    } else if (single.size() != 1 || !single[0].contains("Sequence")) {
      throw Error("post-processor TemplateProcessing is not supported: only one token before the "
                  "text is");
    }
  }
  return bos;
}

}  // namespace runner
