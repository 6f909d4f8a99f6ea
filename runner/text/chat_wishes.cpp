#include "text/chat_wishes.h"

#include "system/error.h"

namespace runner {
namespace {

templates::Value parsed_tools(const ChatWishes& wishes) {
  try {
    templates::Value tools = templates::value_from_json(*wishes.tools, kContent);
    if (!tools.is_list()) throw Error("it is no list");
    for (const templates::Value& tool : tools.list().items) {
      if (!tool.is_dict()) throw Error("it has what is no object");
    }
    return tools;
  } catch (const Error& error) {
    const std::string& where = wishes.tools_path.empty() ? "the text given" : wishes.tools_path;
    throw Error(where + " holds no tools: " + error.what() + kToolsRemedy);
  }
}

}  // namespace

ChatInputs inputs_of(const ChatWishes& wishes, const ChatTemplate& chat) {
  ChatInputs inputs{.now = wishes.date};
  if (!chat.usable()) return inputs;  // which is said when a conversation is encoded
  if (wishes.think) {
    if (!chat.takes_thinking()) {
      throw Error("--think: this model's chat template has no switch for thoughts; leave it out");
    }
    set_thinking(inputs, *wishes.think);
  }
  if (wishes.date && !chat.asks_for_day()) {
    throw Error("--date: this model's chat template asks for no date; leave it out");
  }
  if (wishes.tools) {
    if (!chat.takes("tools")) throw Error("--tools: this model's chat template takes no tools; leave it out");
    inputs.variables.emplace_back("tools", parsed_tools(wishes));
  }
  return inputs;
}

}  // namespace runner
