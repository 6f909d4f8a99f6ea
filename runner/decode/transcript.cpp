#include "decode/transcript.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "system/error.h"
#include "system/whole_file.h"
#include "text/template_value.h"

namespace runner {
namespace {

namespace fs = std::filesystem;

using templates::Value;

std::string to_json(const Transcript& transcript) {
  MarkedText text;
  const templates::JsonForm form{.indent = " ", .between = ","};
  templates::append_json(value_of(transcript), form, text);
  return text.text + "\n";
}

// What a message has beside its role and a content that is text.
std::string other_fields(const Value& message) {
  std::vector<std::pair<Value, Value>> others;
  for (const auto& [key, value] : message.dict().items) {
    if (key.bytes() != "role" && !(key.bytes() == "content" && value.is_text())) others.emplace_back(key, value);
  }
  MarkedText text;
  if (!others.empty()) templates::append_json(templates::dict_value(std::move(others)), {}, text);
  return text.text;
}

// Throws Error with words that follow "is not a saved conversation: ".
Transcript from_json(std::string_view text) {
  const Value list = templates::value_from_json(text, kContent);
  if (!list.is_list()) throw Error("it is no list of messages");
  Transcript transcript;
  for (const Value& item : list.list().items) {
    const std::string number = std::to_string(transcript.size() + 1);
    const auto field = [&](std::string_view name) { return item.is_dict() ? item.dict().find(name) : nullptr; };
    const Value *role = field("role"), *content = field("content");
    if (role == nullptr || !role->is_text()) throw Error("message " + number + " has no role");
    const bool has_text = content && content->is_text();
    transcript.push_back({std::string(role->bytes()), has_text ? std::string(content->bytes()) : "",
                          other_fields(item)});
  }
  const bool has_turns = transcript.size() > (system_prompt(transcript) ? 1 : 0);
  if (has_turns && transcript.back().role != "assistant") {
    throw Error("the last message is no answer of the assistant");
  }
  return transcript;
}

// The bytes of an ordinary file. Devices, pipes and models are not read to their end only to find
// that they are no conversations. Throws Error that says why it cannot be read.
std::string read_bytes(const std::string& path) {
  constexpr uintmax_t kMost = 64 << 20;
  std::error_code failed;
  const auto status = fs::status(path, failed);
  if (fs::exists(status) && !fs::is_regular_file(status)) throw Error("it is no ordinary file");
  const uintmax_t size = fs::file_size(path, failed);
  if (failed) throw Error(failed.message());
  if (size > kMost) {
    throw Error("it has " + std::to_string(size) + " bytes, and a conversation at most " +
                std::to_string(kMost) + " (64 MiB)");
  }
  std::string bytes(size, '\0');
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  file.read(bytes.data(), static_cast<std::streamsize>(size));
  if (!file.is_open() || file.bad()) throw Error(std::strerror(errno ? errno : EIO));
  bytes.resize(static_cast<size_t>(file.gcount()));
  return bytes;
}

// Throws Error that says why it cannot be read, without the path.
Transcript read_transcript(const std::string& path) {
  const std::string bytes = read_bytes(path);
  try {
    return from_json(bytes);
  } catch (const Error& error) {
    throw Error(std::string("it is not a saved conversation: ") + error.what());
  }
}

// A mistyped name must not cost a model or a text.
void check_may_replace(const std::string& path) {
  try {
    read_transcript(path);
  } catch (const Error& error) {
    throw Error("cannot replace " + path + ": " + error.what() + "; give another name");
  }
}

}  // namespace

std::optional<std::string> system_prompt(const Transcript& transcript) {
  if (transcript.empty() || transcript[0].role != "system") return std::nullopt;
  return transcript[0].content;
}

void set_system_prompt(Transcript& transcript, const std::optional<std::string>& text) {
  if (system_prompt(transcript)) transcript.erase(transcript.begin());
  if (text) transcript.insert(transcript.begin(), {"system", *text});
}

void clear_turns(Transcript& transcript) {
  transcript.resize(system_prompt(transcript) ? 1 : 0);
}

void save_transcript(const Transcript& transcript, const std::string& path) {
  std::error_code unknown;
  if (fs::exists(path, unknown)) check_may_replace(path);
  const std::string text = to_json(transcript);
  try {
    WholeFile file(path);
    file.write(text);
    file.commit();
  } catch (const std::system_error& error) {
    throw Error("cannot write " + path + ": " + error.code().message());
  }
}

Transcript load_transcript(const std::string& path) {
  try {
    return read_transcript(path);
  } catch (const Error& error) {
    throw Error("cannot load " + path + ": " + error.what());
  }
}

}  // namespace runner
