#include "text/tokenizer_siblings.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "system/error.h"
#include "text/json_nesting.h"

namespace runner {
namespace {

using json = nlohmann::json;

constexpr const char* kNamed[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};
constexpr const char* kToken = "a string nor an object whose \"content\" is one";
constexpr const char* kExtra[] = {"extra_special_tokens", "additional_special_tokens"};

bool is_one_of(const std::string& key, std::span<const char* const> names) {
  return std::find(names.begin(), names.end(), key) != names.end();
}

// A file's object. New tokens get ids in the order of the file, which `json` forgets.
struct Object {
  json members = json::object();  // without those that are null
  std::vector<std::string> keys;
  std::map<std::string, std::vector<std::string>> extra_keys;  // of the objects under kExtra

  // The file's keys, at any depth, as the parser meets them.
  void note_key(int depth, const std::string& key) {
    if (depth == 1) {
      keys.push_back(key);
    } else if (depth == 2 && !keys.empty() && is_one_of(keys.back(), kExtra)) {
      extra_keys[keys.back()].push_back(key);
    }
  }

  void update(const Object& other) {
    members.update(other.members);
    keys.insert(keys.end(), other.keys.begin(), other.keys.end());
    for (const auto& [key, names] : other.extra_keys) extra_keys[key] = names;
  }
};

bool is_token(const json& value) {
  if (value.is_string()) return true;
  const auto content = value.find("content");
  return content != value.end() && content->is_string();
}

// Throws Error that names the file, the key and its value for what is no token or no list of tokens.
void check_tokens(const json& members, const char* file) {
  const auto refuse = [&](const std::string& key, const json& value, const char* wanted) {
    throw Error(std::string(file) + " beside it: " + key + " " +
                value.dump(-1, ' ', false, json::error_handler_t::replace) + " is neither " + wanted +
                "; correct or remove it");
  };
  for (const char* key : kNamed) {
    const auto found = members.find(key);
    if (found != members.end() && !is_token(*found)) refuse(key, *found, kToken);
  }
  for (const char* key : kExtra) {
    const auto found = members.find(key);
    if (found == members.end()) continue;
    if (!found->is_array() && !found->is_object()) refuse(key, *found, "a list nor an object of tokens");
    for (const json& token : *found) {
      if (!is_token(token)) refuse("in " + std::string(key) + ",", token, kToken);
    }
  }
  const auto named = members.find("tokenizer_class");
  if (named != members.end() && !named->is_string()) {
    throw Error(std::string(file) + " beside it: tokenizer_class " + named->dump() +
                " is not a string; correct or remove it");
  }
}

// Without members where there is no such file.
Object read_object(const std::filesystem::path& path, const char* name) {
  const std::filesystem::path sibling = path.parent_path() / name;
  std::error_code failed;
  if (!std::filesystem::exists(sibling, failed)) return {};
  const std::string text = read_file(sibling);
  try {
    check_nesting(text);
  } catch (const Error& error) {
    throw Error(std::string(name) + " beside it is damaged: " + error.what());
  }
  Object object;
  const auto note = [&](int depth, json::parse_event_t event, const json& parsed) {
    if (event == json::parse_event_t::key) object.note_key(depth, parsed.get<std::string>());
    return true;
  };
  const json content = json::parse(std::string_view(text), note, false);
  if (!content.is_object()) throw Error(std::string(name) + " beside it is damaged");
  for (const auto& [key, value] : content.items()) {
    if (!value.is_null()) object.members[key] = value;
  }
  return object;
}

bool truthy(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

AddedEntry entry_of(const json& object, std::optional<uint32_t> id) {
  AddedEntry entry;
  entry.content = object.at("content").get<std::string>();
  entry.special = truthy(object, "special");
  entry.normalized = object.contains("normalized") ? truthy(object, "normalized") : !entry.special;
  entry.lstrip = truthy(object, "lstrip");
  entry.rstrip = truthy(object, "rstrip");
  entry.single_word = truthy(object, "single_word");
  entry.id = id;
  return entry;
}

// A special token that is only named, by a string or an object.
AddedEntry named_entry(const json& value) {
  AddedEntry entry;
  if (value.is_object()) {
    entry = entry_of(value, std::nullopt);
    entry.normalized = truthy(value, "normalized");
  } else {
    value.get_to(entry.content);
  }
  entry.special = true;
  return entry;
}

void add_named(const json& value, std::vector<AddedEntry>& entries) {
  AddedEntry entry = named_entry(value);
  if (!entry.content.empty()) entries.push_back(std::move(entry));
}

void read_special(const Object& config, Siblings& out) {
  const json& members = config.members;
  for (const char* key : kNamed) {
    if (members.contains(key)) add_named(members.at(key), out.named);
  }
  std::set<std::string> seen;
  for (const std::string& key : config.keys) {
    if (!key.ends_with("_token") || is_one_of(key, kNamed) || !seen.insert(key).second) continue;
    const auto found = members.find(key);
    if (found != members.end() && found->is_string()) add_named(*found, out.named);
  }
  for (const char* key : kExtra) {
    const auto extra = members.find(key);
    if (extra == members.end() || extra->empty()) continue;
    if (extra->is_object()) {
      seen.clear();
      const auto names = config.extra_keys.find(key);
      if (names == config.extra_keys.end()) continue;
      for (const std::string& name : names->second) {  // a key that is there twice has its last value
        const auto value = extra->find(name);
        if (value != extra->end() && seen.insert(name).second) add_named(*value, out.named);
      }
    } else {
      for (const json& value : *extra) add_named(value, out.unnamed);
    }
    break;
  }
}

uint32_t to_id(const std::string& text) {
  uint32_t id = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, id);
  if (error != std::errc() || stop != end) throw Error("'" + text + "' is no token id");
  return id;
}

std::vector<AddedEntry> read_decoder(const json& decoder) {
  std::vector<AddedEntry> listed;
  const auto unfit = [](const std::exception& error) {
    return Error(std::string("added_tokens_decoder in tokenizer_config.json beside it is damaged: ") +
                 error.what());
  };
  try {
    for (const auto& [id, entry] : decoder.items()) listed.push_back(entry_of(entry, to_id(id)));
  } catch (const Error& error) {
    throw unfit(error);
  } catch (const json::exception& error) {
    throw unfit(error);
  }
  return listed;
}

std::vector<AddedEntry> read_added_json(const std::filesystem::path& path, const Siblings& known) {
  std::set<std::string> special;
  for (const auto* tokens : {&known.named, &known.unnamed}) {
    for (const AddedEntry& token : *tokens) special.insert(token.content);
  }
  std::vector<AddedEntry> listed;
  const json file = read_object(path, "added_tokens.json").members;
  for (const auto& [text, id] : file.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
      throw Error("added_tokens.json beside it is damaged: the id of '" + text + "' is no token id");
    }
    AddedEntry entry;
    entry.content = text;
    entry.special = special.contains(text);
    entry.normalized = !entry.special;
    entry.id = id.get<uint32_t>();
    listed.push_back(std::move(entry));
  }
  return listed;
}

std::string content_of(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return "";
  if (found->is_object()) return found->value("content", "");
  return found->is_string() ? found->get<std::string>() : "";
}

std::optional<bool> boolean(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_boolean()) return std::nullopt;
  return found->get<bool>();
}

}  // namespace

bool AddedEntry::same_token(const AddedEntry& other) const {
  const auto flags = [](const AddedEntry& e) {
    return std::array{e.special, e.normalized, e.lstrip, e.rstrip, e.single_word};
  };
  return content == other.content && flags(*this) == flags(other);
}

std::string read_file(const std::filesystem::path& path) {
  std::error_code failed;
  if (std::filesystem::is_directory(path, failed)) {
    throw Error("it is a folder; name the tokenizer.json or tokenizer.model in it");
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(std::string(std::strerror(errno ? errno : EIO)) + "; check the path");
  std::string data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) throw Error("it cannot be read; check the disk");
  return data;
}

Siblings read_siblings(const std::filesystem::path& path) {
  Object object = read_object(path, "tokenizer_config.json");
  check_tokens(object.members, "tokenizer_config.json");
  Siblings out;
  if (object.members.contains("added_tokens_decoder")) {
    read_special(object, out);
    out.listed = read_decoder(object.members.at("added_tokens_decoder"));
  } else {  // as older releases of transformers wrote a folder
    const Object map = read_object(path, "special_tokens_map.json");
    check_tokens(map.members, "special_tokens_map.json");
    object.update(map);
    read_special(object, out);
    out.listed = read_added_json(path, out);
  }
  const json& config = object.members;
  std::stable_sort(out.listed.begin(), out.listed.end(),
                   [](const AddedEntry& a, const AddedEntry& b) { return a.id < b.id; });
  out.bos_token = content_of(config, "bos_token");
  out.eos_token = content_of(config, "eos_token");
  out.add_bos_token = boolean(config, "add_bos_token");
  out.add_prefix_space = boolean(config, "add_prefix_space");
  out.legacy = boolean(config, "legacy");
  out.tokenizer_class = content_of(config, "tokenizer_class");
  return out;
}

std::vector<AddedEntry> Siblings::additions(const std::vector<AddedEntry>& present) const {
  std::vector<AddedEntry> found;
  std::set<std::string> known, names;
  for (const AddedEntry& token : present) known.insert(token.content);
  for (const AddedEntry& token : named) names.insert(token.content);
  for (const AddedEntry& token : listed) {
    const auto same = [&](const AddedEntry& other) { return token.same_token(other); };
    if (std::any_of(present.begin(), present.end(), same)) continue;
    found.push_back(token);
    known.insert(token.content);
  }
  for (const auto* tokens : {&named, &unnamed}) {
    for (const AddedEntry& token : *tokens) {
      if (known.insert(token.content).second) found.push_back(token);
    }
  }
  for (AddedEntry& token : found) token.special |= names.contains(token.content);
  return found;
}

void AddedIds::add(const std::vector<AddedEntry>& tokens) {
  uint32_t next = n_pieces_;
  if (!tokens_.empty()) next = std::max(next, tokens_.rbegin()->first + 1);
  for (const AddedEntry& token : tokens) {
    if (token.content.empty()) continue;
    auto found = added_.find(token.content);
    if (found == added_.end()) {
      const auto own = vocabulary_.find(token.content);
      const uint32_t id = own == vocabulary_.end() ? next++ : own->second;
      found = added_.emplace(token.content, id).first;
    }
    if (token.id && *token.id != found->second) {
      throw Error("added token '" + token.content + "' has id " + std::to_string(*token.id) +
                  " in the files, but transformers gives it " + std::to_string(found->second) +
                  ": correct the file that lists it");
    }
    AddedEntry& entry = tokens_[found->second] = token;
    entry.id = found->second;
  }
}

}  // namespace runner
