#include "decode/transcript.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "system/error.h"
#include "system/whole_file.h"
#include "text/utf8.h"

namespace runner {
namespace {

namespace fs = std::filesystem;

// As nlohmann's dump(1) lays it out; its objects that keep an order are 15 KB of code.
std::string to_json(const Transcript& transcript) {
  std::string text;
  for (const Message& message : transcript) {
    text += text.empty() ? "[\n" : ",\n";
    text += " {\n  \"role\": " + nlohmann::json(message.role).dump();
    text += ",\n  \"content\": " + nlohmann::json(to_valid_utf8(message.content)).dump() + "\n }";
  }
  return text.empty() ? "[]\n" : text + "\n]\n";
}

// Throws Error or a JSON exception with words that follow "is not a saved conversation: ".
Transcript from_json(std::string_view text) {
  const auto list = nlohmann::json::parse(text);
  if (!list.is_array()) throw Error("it is no list of messages");
  Transcript transcript;
  for (const auto& item : list) {
    transcript.push_back({item.at("role"), item.at("content")});
  }
  const bool has_system = system_prompt(transcript).has_value();
  for (size_t i = has_system; i < transcript.size(); ++i) {
    const char* wanted = (i - has_system) % 2 == 0 ? "user" : "assistant";
    if (transcript[i].role != wanted) {
      throw Error("message " + std::to_string(i + 1) + " is of role '" + transcript[i].role +
                  "', expected " + wanted);
    }
  }
  if ((transcript.size() - has_system) % 2 == 1) {
    throw Error("the last message has no answer of the assistant");
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
  const auto unfit = [](const std::exception& error) {
    return Error(std::string("it is not a saved conversation: ") + error.what());
  };
  try {
    return from_json(bytes);
  } catch (const nlohmann::json::exception& error) {
    throw unfit(error);
  } catch (const Error& error) {
    throw unfit(error);
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
