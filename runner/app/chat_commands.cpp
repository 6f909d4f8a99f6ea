#include "app/chat_commands.h"

#include <algorithm>
#include <span>
#include <vector>

#include "app/turn_input.h"
#include "system/error.h"
#include "text/nearest.h"

namespace runner {
namespace {

struct Command {
  const char* name;
  const char* argument;  // what follows the name; "" for nothing
  bool needs_argument;
  const char* help;
  CommandResult (*run)(const ChatState&, const std::string& argument);
};

std::span<const Command> commands();

CommandResult help(const ChatState& state, const std::string&) {
  for (const Command& command : commands()) {
    std::string line = std::string(command.name) + " " + command.argument;
    line.resize(std::max<size_t>(line.size() + 1, 15), ' ');
    state.notice(line + command.help);
  }
  state.notice(kTurnHelp);
  return CommandResult::done;
}

CommandResult clear(const ChatState& state, const std::string&) {
  clear_turns(state.transcript);
  return CommandResult::done;
}

// Takes `changed` for the conversation if the model can go on with it.
CommandResult change(const ChatState& state, Transcript changed) {
  state.check(changed);
  state.transcript = std::move(changed);
  return CommandResult::done;
}

CommandResult set_system(const ChatState& state, const std::string& text) {
  Transcript changed = state.transcript;
  set_system_prompt(changed, text.empty() ? std::nullopt : std::optional(text));
  return change(state, std::move(changed));
}

std::string counted_messages(const Transcript& transcript) {
  return std::to_string(transcript.size()) +
         (transcript.size() == 1 ? " message" : " messages");
}

CommandResult save(const ChatState& state, const std::string& path) {
  save_transcript(state.transcript, path);
  state.notice("saved " + counted_messages(state.transcript) + " in " + path);
  return CommandResult::done;
}

CommandResult load(const ChatState& state, const std::string& path) {
  const CommandResult result = change(state, load_transcript(path));
  state.notice("loaded " + counted_messages(state.transcript) + " of " + path);
  return result;
}

CommandResult quit(const ChatState&, const std::string&) { return CommandResult::quit; }

std::span<const Command> commands() {
  static constexpr Command table[] = {
      {"/help", "", false, "this list", help},
      {"/clear", "", false, "forget all turns; the system prompt stays", clear},
      {"/system", "TEXT", false, "the system prompt of this chat; without TEXT the model's own",
       set_system},
      {"/save", "FILE", true, "write the conversation to FILE, as JSON", save},
      {"/load", "FILE", true, "go on with the conversation in FILE", load},
      {"/exit", "", false, "end the chat; so do /quit and the end of the input", quit},
      {"/quit", "", false, "the same", quit},
  };
  return table;
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (name == command.name) return command;
    names.emplace_back(command.name);
  }
  const std::string hint = did_you_mean(name, names);
  throw Error("unknown command '" + name + "': " + (hint.empty() ? "see /help." : hint) +
              " A turn that begins with '/' is written with '//'");
}

CommandResult carry_out(const std::string& line, const ChatState& state) {
  constexpr const char* kBlank = " \t";
  const size_t name_end = std::min(line.find_first_of(kBlank), line.size());
  const Command& command = find_command(line.substr(0, name_end));
  const size_t first = line.find_first_not_of(kBlank, name_end);
  const size_t last = line.find_last_not_of(kBlank);
  const std::string argument =
      first == std::string::npos ? "" : line.substr(first, last + 1 - first);
  if (argument.empty() && command.needs_argument) {
    throw Error(std::string(command.name) + " needs a " + command.argument + " after it");
  }
  if (!argument.empty() && !*command.argument) {
    throw Error(std::string(command.name) + " takes nothing after it, '" + argument +
                "' is too much");
  }
  return command.run(state, argument);
}

}  // namespace

CommandResult run_command(const std::string& line, const ChatState& state) {
  try {
    return carry_out(line, state);
  } catch (const Error& error) {
    state.notice(error.what());
    return CommandResult::refused;
  }
}

}  // namespace runner
