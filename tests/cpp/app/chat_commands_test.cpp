#include "app/chat_commands.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "system/error.h"
#include "tests/cpp/check.h"
#include "text/nearest.h"

using namespace runner;
namespace fs = std::filesystem;

namespace {

// A chat's state in a folder of its own.
struct Chat {
  fs::path folder = fs::temp_directory_path() / ("chat_commands_test-" + std::to_string(getpid()));
  Transcript transcript;
  std::vector<std::string> notices;
  std::string refuse;  // the role of messages that the model does not take

  Chat() { fs::create_directories(folder); }
  ~Chat() { fs::remove_all(folder); }

  CommandResult run(const std::string& line) {
    const auto check = [&](const Transcript& wanted) {
      for (const Message& message : wanted) {
        if (message.role == refuse) throw Error("no " + refuse + " here");
      }
    };
    return run_command(line, {transcript, check, [&](std::string_view notice) {
                                notices.emplace_back(notice);
                              }});
  }

  std::string file(const char* name) const { return (folder / name).string(); }

  std::string write(const char* name, const std::string& bytes) const {
    std::ofstream(file(name), std::ios::binary) << bytes;
    return file(name);
  }

  std::string read(const char* name) const {
    std::ifstream stream(file(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  // The roles and texts, "user:hello|assistant:hi|".
  std::string said() const {
    std::string all;
    for (const Message& message : transcript) all += message.role + ":" + message.content + "|";
    return all;
  }

  bool noticed(const std::string& part) const {
    return !notices.empty() && notices.back().find(part) != std::string::npos &&
           notices.back().find('\n') == std::string::npos;
  }
};

}  // namespace

TEST(system_and_clear) {
  Chat chat;
  chat.transcript = {{"user", "a"}, {"assistant", "b"}};
  CHECK(chat.run("/system  be kind, please ") == CommandResult::done);
  CHECK_EQ(chat.said(), "system:be kind, please|user:a|assistant:b|");
  CHECK(chat.run("/system be brief") == CommandResult::done);
  CHECK_EQ(chat.said(), "system:be brief|user:a|assistant:b|");
  CHECK(chat.run("/clear") == CommandResult::done);
  CHECK_EQ(chat.said(), "system:be brief|");
  CHECK(chat.run("/system") == CommandResult::done);
  CHECK_EQ(chat.said(), "");
  chat.refuse = "system";
  CHECK(chat.run("/system x") == CommandResult::refused);
  CHECK_EQ(chat.said(), "");
  CHECK(chat.noticed("no system here"));
}

TEST(a_saved_conversation_is_json_and_comes_back) {
  Chat chat;
  chat.transcript = {
      {"system", "S"}, {"user", "two\nlines \"quoted\" \xc3\xbc"}, {"assistant", "b\\"}};
  const std::string path = chat.file("a chat.json");
  CHECK(chat.run("/save " + path) == CommandResult::done);
  CHECK(chat.noticed("3 messages"));
  const auto json = nlohmann::json::parse(chat.read("a chat.json"));
  CHECK_EQ(json.size(), 3u);
  CHECK_EQ(json[1].at("content").get<std::string>(), chat.transcript[1].content);
  const std::string before = chat.said();
  chat.transcript = {{"user", "other"}, {"assistant", "words"}};
  CHECK(chat.run("/load " + path) == CommandResult::done);
  CHECK_EQ(chat.said(), before);
  // Over a conversation that is there; nothing else is left in the folder.
  chat.transcript.clear();
  CHECK(chat.run("/save " + path) == CommandResult::done);
  CHECK_EQ(chat.read("a chat.json"), "[]\n");
  CHECK_EQ(std::distance(fs::directory_iterator(chat.folder), fs::directory_iterator()), 1);
}

TEST(what_templates_know_of_messages_is_kept) {
  Chat chat;
  const std::string saved = R"([
 {
  "role": "user",
  "content": [
   {
    "type": "text",
    "text": "x"
   }
  ]
 },
 {
  "role": "assistant",
  "content": "",
  "tool_calls": [
   {
    "z": 1,
    "a": null
   }
  ]
 },
 {
  "role": "tool",
  "content": "7"
 },
 {
  "role": "assistant",
  "content": "y",
  "reasoning_content": "so"
 }
]
)";
  CHECK(chat.run("/load " + chat.write("t.json", saved)) == CommandResult::done);
  CHECK_EQ(chat.said(), "user:|assistant:|tool:7|assistant:y|");
  CHECK(chat.run("/save " + chat.file("t.json")) == CommandResult::done);
  CHECK_EQ(chat.read("t.json"), saved);
}

TEST(ill_formed_text_is_saved_as_the_model_saw_it) {
  Chat chat;
  chat.transcript = {{"user", "a\xff" "b"}, {"assistant", "c"}};
  CHECK(chat.run("/save " + chat.file("c.json")) == CommandResult::done);
  CHECK(chat.run("/load " + chat.file("c.json")) == CommandResult::done);
  CHECK_EQ(chat.said(), "user:a\xef\xbf\xbd" "b|assistant:c|");
}

TEST(saving_costs_no_other_file) {
  Chat chat;
  const std::string other = chat.write("model.pte", std::string("\x1c\0\0\0ET12", 8));
  CHECK(chat.run("/save " + other) == CommandResult::refused);
  CHECK(chat.noticed("give another name"));
  CHECK(chat.noticed("not a saved conversation"));
  CHECK_EQ(chat.read("model.pte").size(), 8u);
  CHECK(chat.run("/save " + chat.folder.string()) == CommandResult::refused);
  CHECK(chat.run("/save " + chat.file("nosuch/c.json")) == CommandResult::refused);
  CHECK(chat.noticed("No such file"));
  CHECK(chat.run("/save /dev/full") == CommandResult::refused);
  CHECK_EQ(std::distance(fs::directory_iterator(chat.folder), fs::directory_iterator()), 1);
}

TEST(what_cannot_be_read_is_said_as_that) {
  Chat chat;
  const std::string pipe = chat.file("pipe"), large = chat.write("large", "");
  CHECK_EQ(mkfifo(pipe.c_str(), 0600), 0);  // to open it would wait for its other end
  fs::resize_file(large, (64u << 20) + 1);
  for (const char* command : {"/load ", "/save "}) {
    CHECK(chat.run(command + pipe) == CommandResult::refused);
    CHECK(chat.noticed(pipe + ": it is no ordinary file"));
    CHECK(chat.run(command + large) == CommandResult::refused);
    CHECK(chat.noticed(large + ": it has 67108865 bytes"));
    CHECK(chat.noticed("67108864 (64 MiB)"));
    CHECK(!chat.noticed("not a saved conversation"));
  }
  CHECK(fs::is_fifo(pipe) && fs::file_size(large) == (64u << 20) + 1);
  if (geteuid() == 0) return;  // who may read everything
  const std::string shut = chat.write("shut", "[]");
  fs::permissions(shut, fs::perms::none);
  CHECK(chat.run("/load " + shut) == CommandResult::refused);
  CHECK(chat.noticed(shut + ": Permission denied"));
  CHECK(!chat.noticed("not a saved conversation"));
}

TEST(what_is_no_conversation_is_not_loaded) {
  Chat chat;
  chat.transcript = {{"user", "a"}, {"assistant", "b"}};
  const std::pair<const char*, const char*> cases[] = {
      {"", "not a saved conversation"},
      {"{", "not a saved conversation"},
      {"3", "not a saved conversation"},
      {R"({"a": {"role": "user", "content": "x"}})", "no list"},
      {R"([{"content": "x"}])", "message 1 has no role"},
      {R"([{"role": 3, "content": "x"}])", "message 1 has no role"},
      {R"([{"role": "user", "content": "x"}])", "is no answer"},
      {R"([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}])", "is no answer"},
      {"[\"\xff\"]", "UTF-8"},
  };
  for (const auto& [text, words] : cases) {
    const std::string path = chat.write("c.json", text);
    CHECK(chat.run("/load " + path) == CommandResult::refused);
    if (!chat.noticed(words)) CHECK_EQ(chat.notices.back(), words);
    CHECK(chat.noticed(path));
    CHECK_EQ(chat.said(), "user:a|assistant:b|");
  }
  CHECK(chat.run("/load " + chat.file("nosuch")) == CommandResult::refused);
  CHECK(chat.noticed("No such file"));
  CHECK(chat.run("/load " + chat.folder.string()) == CommandResult::refused);
  CHECK(chat.noticed("no ordinary file"));
  CHECK(chat.run("/load /dev/zero") == CommandResult::refused);
  CHECK(chat.noticed("no ordinary file"));
  chat.refuse = "user";  // as when it does not fit the context
  const std::string good = chat.write("g.json", R"([{"role": "user", "content": "x"},
                                                    {"role": "assistant", "content": "y"}])");
  CHECK(chat.run("/load " + good) == CommandResult::refused);
  CHECK_EQ(chat.said(), "user:a|assistant:b|");
}

TEST(help_names_every_command) {
  Chat chat;
  CHECK(chat.run("/help") == CommandResult::done);
  std::string all;
  for (const std::string& notice : chat.notices) all += notice + "\n";
  for (const char* word : {"/help", "/clear", "/system TEXT", "/save FILE", "/load FILE", "/exit",
                           "/quit", "\"\"\"", "//"}) {
    if (all.find(word) == std::string::npos) CHECK_EQ(word, "in the help");
  }
}

TEST(unknown_and_malformed_commands) {
  Chat chat;
  const std::pair<const char*, const char*> cases[] = {
      {"/hlep", "did you mean /help?"}, {"/sav x", "did you mean /save?"},
      {"/etc/passwd", "see /help"},     {"/", "see /help"},
      {"/CLEAR", "did you mean /clear?"}, {"/load", "/load needs a FILE"},
      {"/clear all", "'all'"},
  };
  for (const auto& [line, words] : cases) {
    CHECK(chat.run(line) == CommandResult::refused);
    if (!chat.noticed(words)) CHECK_EQ(chat.notices.back(), words);
  }
  CHECK(chat.run("/exit") == CommandResult::quit && chat.run("/quit ") == CommandResult::quit);
}

TEST(nearest_names) {
  const std::vector<std::string> names = {"--top-p", "--top-k", "--temperature", "--seed",
                                          "--steps"};
  const std::pair<const char*, const char*> cases[] = {
      {"--tmeperature", "--temperature"},
      {"--temperatura", "--temperature"},
      {"--temp", "--temperature"},
      {"--top_k", "--top-k"},
      {"--topk", "--top-k"},
      {"--step", "--steps"},
      {"--sed", "--seed"},
      {"--SEED", "--seed"},
      {"--t", ""},
      {"--colour", ""},
      {"--", ""},
      {"", ""},
  };
  for (const auto& [word, expected] : cases) CHECK_EQ(nearest_name(word, names), expected);
}

CHECK_MAIN()
