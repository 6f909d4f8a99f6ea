#include "runner/conversation.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "runner/error.h"
#include "runner/utf8.h"

namespace runner {
namespace {

std::string to_json(const Conversation& conversation) {
  auto list = nlohmann::ordered_json::array();
  for (const Message& message : conversation) {
    list.push_back({{"role", message.role}, {"content", to_valid_utf8(message.content)}});
  }
  return list.dump(1) + "\n";
}

// Throws std::exception with words that follow "is not a saved conversation: ".
Conversation from_json(std::string_view text) {
  const auto list = nlohmann::json::parse(text);
  if (!list.is_array()) throw Error("it is no list of messages");
  Conversation conversation;
  for (const auto& item : list) {
    conversation.push_back({item.at("role"), item.at("content")});
  }
  const bool has_system = system_prompt(conversation).has_value();
  for (size_t i = has_system; i < conversation.size(); ++i) {
    const char* wanted = (i - has_system) % 2 == 0 ? "user" : "assistant";
    if (conversation[i].role != wanted) {
      throw Error("message " + std::to_string(i + 1) + " is of role '" + conversation[i].role +
                  "', expected " + wanted);
    }
  }
  if ((conversation.size() - has_system) % 2 == 1) {
    throw Error("the last message has no answer of the assistant");
  }
  return conversation;
}

// Devices and models are not read to their end only to find that they are no conversations.
void check_size(const std::string& path) {
  constexpr uintmax_t kMost = 64 << 20;
  std::error_code failed;
  if (std::filesystem::file_size(path, failed) > kMost) {  // the largest number where it fails
    throw Error(failed ? "it is no ordinary file" : "it has more than 64 MiB");
  }
}

[[noreturn]] void fail(const std::string& doing, const std::string& path, int error) {
  throw Error("cannot " + doing + " " + path + ": " + std::strerror(error ? error : EIO));
}

// Removes a file that was not renamed.
struct Temporary {
  std::string path;
  ~Temporary() {
    if (!path.empty()) std::remove(path.c_str());
  }
};

// A mistyped name must not cost a model or a text.
void check_may_replace(const std::string& path) {
  try {
    load_conversation(path);
  } catch (const Error&) {
    throw Error("cannot write " + path +
                ": it is there and is not a saved conversation; give another name");
  }
}

}  // namespace

std::optional<std::string> system_prompt(const Conversation& conversation) {
  if (conversation.empty() || conversation[0].role != "system") return std::nullopt;
  return conversation[0].content;
}

void set_system_prompt(Conversation& conversation, const std::optional<std::string>& text) {
  if (system_prompt(conversation)) conversation.erase(conversation.begin());
  if (text) conversation.insert(conversation.begin(), {"system", *text});
}

void clear_turns(Conversation& conversation) {
  conversation.resize(system_prompt(conversation) ? 1 : 0);
}

void save_conversation(const Conversation& conversation, const std::string& path) {
  std::error_code unknown;
  if (std::filesystem::exists(path, unknown)) check_may_replace(path);
  Temporary temporary{path + ".tmp"};
  errno = 0;
  std::ofstream file(temporary.path, std::ios::binary | std::ios::trunc);
  if (!file) {
    temporary.path.clear();
    fail("write", path, errno);
  }
  file << to_json(conversation);
  file.close();
  if (!file || std::rename(temporary.path.c_str(), path.c_str()) != 0) fail("write", path, errno);
  temporary.path.clear();
}

Conversation load_conversation(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("read", path, errno);
  const auto unfit = [&](const std::exception& error) {
    return Error(path + " is not a saved conversation: " + error.what());
  };
  try {
    check_size(path);
    return from_json(std::string(std::istreambuf_iterator<char>(file), {}));
  } catch (const Error& error) {
    throw unfit(error);
  } catch (const nlohmann::json::exception& error) {
    throw unfit(error);
  }
}

}  // namespace runner
