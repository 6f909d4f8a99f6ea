#include "decode/self_test.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "decode/speed.h"
#include "model/metadata.h"
#include "model/session.h"
#include "system/crc32.h"
#include "system/error.h"
#include "text/chat_template.h"

namespace runner {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

constexpr const char* kDamaged = "the artifact's self-test is damaged; export it again";

struct TextAnswer {
  std::string text;
  Ids ids;
};

struct ConversationAnswer {
  templates::Value messages;
  ChatInputs inputs;
  Ids ids;
};

// The CRC-32 of the float32 logits of all positions: `prompt` in one forward, then `next` one by one.
struct LogitsAnswer {
  Ids prompt, next;
  uint32_t crc32;
};

struct Answers {
  std::vector<TextAnswer> texts;
  std::vector<ConversationAnswer> conversations;
  std::vector<LogitsAnswer> logits;
  double weight_bytes = 0;
};

templates::Value as_value(const json& text) {
  return templates::value_from_json(text.get_ref<const std::string&>(), kContent);
}

Answers read_answers(const Metadata& metadata) {
  const auto found = metadata.raw.find(keys::kSelfTest);
  if (found == metadata.raw.end()) {
    throw Error("the artifact has no self-test, since an older release exported it; export it again");
  }
  try {
    const json test = json::parse(std::string_view(found->second));  // as everywhere: one parser is compiled
    Answers answers;
    for (const json& each : test.at("texts")) {
      answers.texts.push_back({each.at("text").get<std::string>(), each.at("ids").get<Ids>()});
    }
    for (const json& each : test.at("conversations")) {
      if (!each.contains("variables")) {
        throw Error("the artifact's self-test is of an older release; export it again");
      }
      // Texts of JSON, whose objects keep their order when they are read as values.
      ConversationAnswer answer{as_value(each.at("messages")), {}, each.at("ids").get<Ids>()};
      const templates::Value variables = as_value(each.at("variables"));
      if (!variables.is_dict()) throw Error(kDamaged);
      for (const auto& [name, value] : variables.dict().items) {
        answer.inputs.variables.emplace_back(name.bytes(), value);
      }
      answer.inputs.now = day_of(each.at("date").get<std::string>());
      if (!answer.inputs.now) throw Error(kDamaged);
      answers.conversations.push_back(std::move(answer));
    }
    for (const json& each : test.at("logits")) {
      answers.logits.push_back({each.at("prompt").get<Ids>(), each.at("next").get<Ids>(),
                                each.at("crc32").get<uint32_t>()});
    }
    const json& bytes = test.at("weight_bytes");
    if (!bytes.is_null()) answers.weight_bytes = bytes.get<double>();
    if (std::ranges::any_of(answers.logits, [](const auto& each) { return each.prompt.empty(); })) {
      throw Error(kDamaged);
    }
    if (answers.texts.empty() || (metadata.lowbit && answers.logits.empty())) {
      throw Error("the artifact's self-test is empty; export it again");
    }
    return answers;
  } catch (const json::exception&) {
    throw Error(kDamaged);
  }
}

// Where two lists of ids part.
std::string difference(const Ids& found, const Ids& expected) {
  const auto [a, b] = std::ranges::mismatch(found, expected);
  const auto said = [](auto at, auto end) { return at == end ? "the end" : std::to_string(*at); };
  return "token " + std::to_string(a - found.begin()) + " is " + said(a, found.end()) + " instead of " +
         said(b, expected.end());
}

void compare(const std::string& what, const Ids& found, const Ids& expected, SelfTest& test) {
  if (found != expected) test.wrong.push_back(what + ": " + difference(found, expected));
}

using Interrupted = std::function<bool()>;

uint32_t checksum_of(Session& session, const LogitsAnswer& answer, const Interrupted& interrupted) {
  uint32_t checksum = 0;
  const auto add = [&](std::span<const float> row) {
    checksum = crc32_of(std::as_bytes(row), checksum);
  };
  session.rewind(0);
  session.append(answer.prompt, add, interrupted);
  for (const int32_t& id : answer.next) {
    if (!interrupted()) session.append({&id, 1}, add);
  }
  return checksum;
}

// Times a prompt and a text, short ones where a token takes more than 0.1 s.
void time_session(Session& session, double weight_bytes, const Poll& poll, SelfTest& test) {
  const int64_t room = session.context_length();
  time_decode(session, 1, 0, poll);  // the file's pages are read once
  const bool slow = time_decode(session, 1, 0, poll) > 0.1;
  const int64_t prompt = std::max<int64_t>(1, std::min<int64_t>(slow ? 16 : 128, room / 2));
  const int64_t depth = std::min<int64_t>(slow ? 0 : 32, room - 1);
  const int64_t text = std::min<int64_t>(slow ? 4 : 16, room - depth);
  test.prefill_tokens_per_second = static_cast<double>(prompt) / time_prefill(session, prompt, 0, poll);
  test.decode_tokens_per_second = static_cast<double>(text) / time_decode(session, text, depth, poll);
  test.weight_bytes_per_second = weight_bytes * test.decode_tokens_per_second;
}

// The context that answers and timing need. On stock operators the artifact's own: it cannot be chosen.
StateChoice choice_for(const Metadata& metadata, const Answers& answers) {
  if (!metadata.lowbit) return {};
  int64_t length = 160;
  for (const LogitsAnswer& answer : answers.logits) {
    length = std::max<int64_t>(length, std::ssize(answer.prompt) + std::ssize(answer.next));
  }
  return {.context_length = std::min(length, metadata.context_length)};
}

}  // namespace

SelfTest run_self_test(Model& model, const Tokenizer& tokenizer, const Interrupted& interrupted) {
  const Metadata& metadata = model.metadata();
  const Answers answers = read_answers(metadata);
  SelfTest test;
  for (const TextAnswer& answer : answers.texts) {
    compare("text " + std::to_string(++test.texts),
            tokenizer.encode(answer.text, false, Tokenizer::Special::parse), answer.ids, test);
  }
  const ChatTemplate chat = ChatTemplate::from_json(metadata.chat);
  for (const ConversationAnswer& answer : answers.conversations) {
    const std::string what = "conversation " + std::to_string(++test.conversations);
    try {
      compare(what, chat.encode(answer.messages, true, answer.inputs, tokenizer), answer.ids, test);
    } catch (const Error& error) {
      test.wrong.push_back(what + ": " + error.what());
    }
  }
  Session session(model, model.make_state(choice_for(metadata, answers)));
  for (const LogitsAnswer& answer : answers.logits) {
    test.positions += std::ssize(answer.prompt) + std::ssize(answer.next);
    const std::string what = "the logits of prompt " + std::to_string(++test.prompts);
    session.check_at(0, answer.prompt);
    try {
      if (checksum_of(session, answer, interrupted) != answer.crc32) {
        test.wrong.push_back(what + " have other bits");
      }
    } catch (const Error& error) {
      test.wrong.push_back(what + ": " + error.what());
    }
  }
  struct Ended {};
  const Poll poll = [&] {
    if (interrupted()) throw Ended();
  };
  try {
    time_session(session, answers.weight_bytes, poll, test);
  } catch (const Ended&) {  // the caller knows
  } catch (const Error&) {  // the tokens mean nothing, and a model may refuse them
  }
  return test;
}

}  // namespace runner
