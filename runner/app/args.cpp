#include "app/args.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>

#include "kernels/state/layout.h"
#include "model/cache_types.h"
#include "system/cpu_count.h"
#include "system/error.h"
#include "text/chat_template.h"
#include "text/nearest.h"

namespace runner {
namespace {

// One occurrence of a flag, named as the user wrote it.
struct Given {
  std::string flag, value;

  [[noreturn]] void bad(const std::string& wanted) const {
    throw UsageError(flag + " '" + value + "': expected " + wanted);
  }
};

template <typename Integer>
bool parse_integer(std::string_view text, Integer& number) {
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end;
}

template <typename Integer>
Integer integer(const Given& given, Integer low, Integer high, const std::string& wanted) {
  Integer number = 0;
  if (!parse_integer(given.value, number) || number < low || number > high) given.bad(wanted);
  return number;
}

// Spaces after a comma do not count.
std::vector<std::string> split_at_commas(std::string_view text) {
  std::vector<std::string> items;
  for (size_t start = 0; start <= text.size();) {
    const size_t comma = std::min(text.find(',', start), text.size());
    while (start < comma && text[start] == ' ') ++start;
    items.emplace_back(text.substr(start, comma - start));
    start = comma + 1;
  }
  return items;
}

// strtod, since std::from_chars for doubles is missing from some standard libraries; no program
// of ours sets a locale.
bool parse_real(const std::string& text, double& number) {
  if (text.empty() || text.find_first_not_of("0123456789+-.eE") != std::string::npos) return false;
  char* end = nullptr;
  number = std::strtod(text.c_str(), &end);
  return end == text.c_str() + text.size();
}

void set_number(Args& args, const NumberSetting& setting, const Given& given) {
  double number = 0;
  int64_t count = 0;
  const bool parsed =
      setting.whole ? parse_integer(given.value, count) : parse_real(given.value, number);
  if (setting.whole) number = static_cast<double>(count);
  if (!parsed || !setting.allows(number)) given.bad(setting.wanted());
  args.*setting.member = number;
}

// Biases of single tokens: 5=-1.5,7=2; 5=-inf forbids one.
void add_biases(Args& args, const Given& given) {
  if (!args.logit_bias) args.logit_bias.emplace();
  for (const std::string& item : split_at_commas(given.value)) {
    const size_t equals = std::min(item.find('='), item.size());
    const std::string value = item.substr(std::min(equals + 1, item.size()));
    int32_t id = 0;
    double bias = -std::numeric_limits<double>::infinity();
    const bool parsed = parse_integer(std::string_view(item).substr(0, equals), id) && id >= 0 &&
                        (value == "-inf" || parse_real(value, bias));
    if (!parsed || (value != "-inf" && std::abs(bias) > std::numeric_limits<float>::max())) {
      given.bad("token ids and what is added to their logits, such as 5=-1.5,7=-inf");
    }
    args.logit_bias->push_back({{id}, static_cast<float>(bias)});
  }
}

// An empty text is none: --stop '' alone leaves out the model's own.
void add_stop_string(Args& args, const Given& given) {
  if (!args.stop_strings) args.stop_strings.emplace();
  if (!given.value.empty()) args.stop_strings->push_back(given.value);
}

std::vector<int32_t> token_list(const Given& given) {
  std::vector<int32_t> ids;
  for (const std::string& item : split_at_commas(given.value)) {
    int32_t id = 0;
    if (!parse_integer(item, id) || id < 0) {
      given.bad("token ids separated by commas, such as 1,2,3");
    }
    ids.push_back(id);
  }
  return ids;
}

constexpr int64_t kAnyCount = std::numeric_limits<int32_t>::max();

// One row a flag: this table, with those of number_settings(), is what the parser knows. Of the
// rest help_text() in help.cpp is written by hand.
struct Flag {
  const char* short_name;  // "" for none
  std::string long_name;
  bool takes_value;
  std::function<void(Args&, const Given&)> apply;
};

std::vector<Flag> make_flags() {
  std::vector<Flag> table = {
      {"-h", "--help", false, [](Args& a, const Given&) { a.help = true; }},
      {"-v", "--verbose", false, [](Args& a, const Given&) { a.verbose = true; }},
      {"", "--ignore-eos", false, [](Args& a, const Given&) { a.ignore_eos = true; }},
      {"", "--stats", false, [](Args& a, const Given&) { a.stats = true; }},
      {"", "--json", false, [](Args& a, const Given&) { a.json = true; }},
      {"", "--tokenize", false, [](Args& a, const Given&) { a.tokenize = true; }},
      {"", "--self-test", false, [](Args& a, const Given&) { a.self_test = true; }},
      {"-i", "--prompt", true, [](Args& a, const Given& g) { a.prompt = g.value; }},
      {"-f", "--prompt-file", true,
       [](Args& a, const Given& g) {
         if (g.value.empty()) g.bad("a text file");
         a.prompt_path = g.value;
       }},
      {"-y", "--system-prompt", true, [](Args& a, const Given& g) { a.system_prompt = g.value; }},
      {"", "--think", true,
       [](Args& a, const Given& g) {
         if (g.value != "on" && g.value != "off") g.bad("on or off");
         a.think = g.value == "on";
       }},
      {"", "--tools", true,
       [](Args& a, const Given& g) {
         if (g.value.empty()) g.bad("a JSON file");
         a.tools_path = g.value;
       }},
      {"", "--date", true,
       [](Args& a, const Given& g) {
         a.date = day_of(g.value);
         if (!a.date) g.bad("a day such as 2024-07-26");
       }},
      {"-z", "--tokenizer", true,
       [](Args& a, const Given& g) {
         if (g.value.empty()) g.bad("a tokenizer file");
         a.tokenizer_path = g.value;
       }},
      {"", "--logits-out", true,
       [](Args& a, const Given& g) {
         if (g.value.empty()) g.bad("a file to write");
         a.logits_path = g.value;
       }},
      {"", "--require-signature", true,
       [](Args& a, const Given& g) {
         if (g.value.empty()) g.bad("a public key of minisign's");
         a.key_path = g.value;
       }},
      {"", "--tokens", true, [](Args& a, const Given& g) { a.tokens = token_list(g); }},
      {"-m", "--mode", true,
       [](Args& a, const Given& g) {
         if (g.value != "generate" && g.value != "chat") {
           const std::string hint = did_you_mean(g.value, {"generate", "chat"});
           g.bad("generate or chat" + (hint.empty() ? "" : "; " + hint));
         }
         a.mode = g.value == "chat" ? Mode::chat : Mode::generate;
       }},
      {"", "--logit-bias", true, add_biases},
      {"", "--stop", true, add_stop_string},
      {"-s", "--seed", true,
       [](Args& a, const Given& g) {
         a.seed = integer<uint64_t>(g, 0, std::numeric_limits<uint64_t>::max(),
                                    "a whole number from 0 to 2^64-1");
       }},
      {"-n", "--steps", true,
       [](Args& a, const Given& g) {
         a.steps = integer<int64_t>(g, 0, kAnyCount,
                                    "a whole number from 0 (up to the context's end) up");
       }},
      {"-l", "--llama-version", true,
       [](Args& a, const Given& g) {
         a.llama_version = integer<int>(
             g, 2, 3, "2 (SentencePiece vocabulary) or 3 (byte-level vocabulary); or leave it out");
       }},
      {"", "--threads", true,
       [](Args& a, const Given& g) {
         a.threads = integer<int>(g, 1, kMaxThreads,
                                  "a whole number from 1 to " + std::to_string(kMaxThreads));
       }},
      {"", "--max-seq-length", true,
       [](Args& a, const Given& g) {
         a.context_length = integer<int64_t>(g, 1, lowbit::kMostContext,
                                             "a number of tokens from 1 to " +
                                                 std::to_string(lowbit::kMostContext));
       }},
      {"", "--cache-dtype", true,
       [](Args& a, const Given& g) {
         if (g.value == "auto") return a.cache_type.reset();
         a.cache_type = cache_type_of(g.value);
         if (!a.cache_type) g.bad("one of auto, " + cache_type_names());
       }},
      {"", "--prefill-chunk", true,
       [](Args& a, const Given& g) {
         a.prefill_chunk = integer<int64_t>(g, 1, kAnyCount, "a whole number from 1 up");
       }},
  };
  for (const NumberSetting& setting : number_settings()) {
    table.push_back({setting.short_flag, setting.flag(), true,
                     [&setting](Args& a, const Given& g) { set_number(a, setting, g); }});
  }
  return table;
}

const std::vector<Flag>& flags() {
  static const std::vector<Flag> table = make_flags();
  return table;
}

// Splits a word into a flag and the value attached to it: `--flag=value` or `-fvalue`.
struct Word {
  const Flag* flag = nullptr;
  std::string name;
  std::optional<std::string> attached;
};

// The words for a flag that there is not.
std::string unknown_flag(const std::string& name) {
  std::vector<std::string> names;
  for (const Flag& flag : flags()) names.emplace_back(flag.long_name);
  const std::string hint = did_you_mean(name, names);
  return "unknown flag '" + name + "': " +
         (hint.empty() ? "see --help for those there are" : hint);
}

bool is_long_name(const std::string& name) {
  return std::ranges::any_of(flags(), [&](const Flag& flag) { return name == flag.long_name; });
}

Word find_flag(const std::string& word) {
  Word found;
  const bool is_long = word.starts_with("--");
  const size_t length = is_long ? std::min(word.find('='), word.size()) : 2;
  found.name = word.substr(0, length);
  if (word.size() > length) found.attached = word.substr(is_long ? length + 1 : length);
  for (const Flag& flag : flags()) {
    const std::string name = is_long ? flag.long_name : flag.short_name;
    if (found.name == name) found.flag = &flag;
  }
  const std::string whole = word.substr(0, word.find('='));
  if (!is_long && is_long_name("-" + whole)) {  // one '-' is missing
    throw UsageError("unknown flag '" + whole + "': did you mean -" + whole + "?");
  }
  if (!found.flag) throw UsageError(unknown_flag(is_long ? found.name : word));
  return found;
}

void check_combinations(const Args& a) {
  const auto clash = [](bool both, const char* message) {
    if (both) throw UsageError(message);
  };
  const bool chat = a.mode == Mode::chat;
  const bool from_file = !a.prompt_path.empty();
  clash(a.tokens && a.prompt, "--tokens and -i are both a prompt: give one of them");
  clash(from_file && a.prompt, "-f and -i are both a prompt: give one of them");
  clash(from_file && a.tokens, "-f and --tokens are both a prompt: give one of them");
  clash(chat && a.tokens, "--tokens does not go with -m chat: leave one of them out");
  clash(chat && !a.logits_path.empty(),
        "--logits-out does not go with -m chat: leave one of them out");
  clash(!chat && a.system_prompt.has_value(), "-y (system prompt) needs -m chat: add it");
  clash(!chat && (a.think || !a.tools_path.empty() || a.date),
        "--think, --tools and --date are for the chat template and need -m chat: add it");
  const bool generates =
      a.prompt || from_file || a.tokens || chat || a.stats || !a.logits_path.empty();
  clash(a.tokenize && generates,
        "--tokenize only reads standard input: leave out -i, -f, --tokens, -m, --stats and "
        "--logits-out");
  clash(a.self_test && (generates || a.tokenize),
        "--self-test says what it measured by itself: leave out -i, -f, --tokens, -m, --stats, "
        "--logits-out and --tokenize");
  clash(a.self_test && (!a.tokenizer_path.empty() || a.context_length || a.cache_type),
        "--self-test is of the artifact as it was exported: leave out -z, --max-seq-length and "
        "--cache-dtype");
  clash(a.json && !a.stats && !a.self_test,
        "--json is the form of --stats and --self-test: add one of them");
}

}  // namespace

Args parse_args(const std::vector<std::string>& words, const std::string& own_model) {
  Args args;
  args.model_path = own_model;
  args.own_model = !own_model.empty();
  bool flags_ended = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (flags_ended || word.size() < 2 || word[0] != '-') {
      if (args.own_model) {
        throw UsageError("'" + word + "' is one word too many: the model is in this program, and a prompt of "
                         "several words is put in quotes after -i");
      }
      if (!args.model_path.empty()) {
        throw UsageError("'" + word + "' is one word too many after the model '" + args.model_path +
                         "': put a prompt of several words in quotes after -i");
      }
      if (word.empty()) throw UsageError("the model's path is empty: give the exported file");
      args.model_path = word;
      continue;
    }
    if (word == "--") {
      flags_ended = true;
      continue;
    }
    Word found = find_flag(word);
    if (!found.flag->takes_value) {
      if (found.attached) {
        throw UsageError("'" + word + "': " + found.name + " takes no value");
      }
    } else if (!found.attached) {
      if (i + 1 == words.size()) {
        throw UsageError(found.name + " needs a value: see --help for what it takes");
      }
      found.attached = words[++i];
    }
    found.flag->apply(args, {found.name, found.attached.value_or("")});
    if (args.help) return args;
  }
  if (args.model_path.empty())
    throw UsageError("no model given: name the exported file, or --help");
  check_combinations(args);
  if (args.own_model && !args.key_path.empty()) {
    throw UsageError("--require-signature checks the file of a model, which is in this program here: check the "
                     "program with minisign -V");
  }
  return args;
}

}  // namespace runner
