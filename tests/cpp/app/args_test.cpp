#include "app/args.h"

#include <limits>

#include "system/error.h"
#include "tests/cpp/check.h"

using namespace runner;

namespace {

Args parse(std::vector<std::string> words) {
  words.insert(words.begin(), "model.pte");
  return parse_args(words);
}

}  // namespace

TEST(nothing_but_a_model) {
  const Args args = parse({});
  CHECK_EQ(args.model_path, "model.pte");
  CHECK(args.mode == Mode::generate);
  CHECK(!args.temperature && !args.top_p && !args.top_k && !args.min_p && !args.seed);
  CHECK(!args.steps && !args.prompt && !args.tokens && !args.llama_version);
  CHECK_EQ(args.threads, 0);
}

TEST(each_flag_in_its_short_and_long_form) {
  for (const char* flag : {"-t", "--temperature"}) CHECK_EQ(*parse({flag, "0.5"}).temperature, 0.5);
  for (const char* flag : {"-p", "--top-p"}) CHECK_EQ(*parse({flag, "0.9"}).top_p, 0.9);
  for (const char* flag : {"-s", "--seed"}) {
    CHECK_EQ(*parse({flag, "18446744073709551615"}).seed, 18446744073709551615u);
  }
  for (const char* flag : {"-n", "--steps"}) CHECK_EQ(*parse({flag, "0"}).steps, 0);
  for (const char* flag : {"-i", "--prompt"}) CHECK_EQ(*parse({flag, "-a b"}).prompt, "-a b");
  for (const char* flag : {"-f", "--prompt-file"}) CHECK_EQ(parse({flag, "p"}).prompt_path, "p");
  for (const char* flag : {"-z", "--tokenizer"}) CHECK_EQ(parse({flag, "x"}).tokenizer_path, "x");
  for (const char* flag : {"-m", "--mode"}) CHECK(parse({flag, "chat"}).mode == Mode::chat);
  for (const char* flag : {"-y", "--system-prompt"}) {
    CHECK_EQ(*parse({"-m", "chat", flag, "be kind"}).system_prompt, "be kind");
  }
  for (const char* flag : {"-v", "--verbose"}) CHECK(parse({flag}).verbose);
  for (const char* flag : {"-l", "--llama-version"}) CHECK_EQ(*parse({flag, "3"}).llama_version, 3);
  for (const char* flag : {"-h", "--help"}) CHECK(parse_args({flag}).help);
}

TEST(flags_with_a_long_form_only) {
  CHECK_EQ(*parse({"--top-k", "40"}).top_k, 40);
  CHECK_EQ(*parse({"--min-p", "0.05"}).min_p, 0.05);
  CHECK_EQ(*parse({"--typical-p", "0.9"}).typical_p, 0.9);
  CHECK_EQ(*parse({"--repetition-penalty", "1.1"}).repetition_penalty, 1.1);
  CHECK_EQ(*parse({"--presence-penalty", "-2"}).presence_penalty, -2);
  CHECK_EQ(*parse({"--frequency-penalty", "0.5"}).frequency_penalty, 0.5);
  CHECK_EQ(*parse({"--no-repeat-ngram-size", "3"}).no_repeat_ngram_size, 3);
  const Args biased = parse({"--logit-bias", "5=-1.5, 7=2", "--logit-bias=9=-inf"});
  CHECK(*biased.logit_bias == (std::vector<TokenBias>{
                                  {{5}, -1.5f},
                                  {{7}, 2.0f},
                                  {{9}, -std::numeric_limits<float>::infinity()},
                              }));
  CHECK_EQ(*parse({"--stop", "a b", "--stop=\n"}).stop_strings,
           (std::vector<std::string>{"a b", "\n"}));
  CHECK(parse({"--stop", ""}).stop_strings->empty());
  CHECK_EQ(parse({"--threads", "256"}).threads, 256);
  CHECK_EQ(parse({"--prefill-chunk", "1"}).prefill_chunk, 1);
  CHECK_EQ(parse({"--logits-out", "l.npy"}).logits_path, "l.npy");
  CHECK_EQ(*parse({"--tokens", "504,3575, 282"}).tokens, (std::vector<int32_t>{504, 3575, 282}));
  CHECK(parse({"--ignore-eos"}).ignore_eos);
  CHECK(parse({"--tokenize"}).tokenize);
  const Args args = parse({"--stats", "--json"});
  CHECK(args.stats && args.json);
}

TEST(attached_values) {
  CHECK_EQ(*parse({"-l3"}).llama_version, 3);
  CHECK_EQ(*parse({"-t0.5"}).temperature, 0.5);
  CHECK_EQ(*parse({"-n0"}).steps, 0);
  CHECK_EQ(*parse({"-iOnce upon"}).prompt, "Once upon");
  CHECK_EQ(*parse({"--top-p=0.25"}).top_p, 0.25);
  CHECK_EQ(*parse({"--prompt=a=b"}).prompt, "a=b");
  CHECK_EQ(*parse({"--prompt="}).prompt, "");
}

TEST(the_model_may_stand_anywhere) {
  CHECK_EQ(parse_args({"-t", "0", "m.pte", "-n", "3"}).model_path, "m.pte");
  CHECK_EQ(parse_args({"--", "-odd.pte"}).model_path, "-odd.pte");
}

TEST(malformed_values_name_the_value_and_the_remedy) {
  CHECK_THROWS(UsageError, parse({"-t", "abc"}), "-t", "'abc'", "0.8");
  CHECK_THROWS(UsageError, parse({"--temperature=-1"}), "--temperature", "'-1'");
  for (const char* value : {"", "nan", "inf", "1e999", "0x1", " 1", "1 ", "1.2.3"}) {
    CHECK_THROWS(UsageError, parse({"-t", value}), "-t", "a number");
  }
  CHECK_THROWS(UsageError, parse({"-p", "-0.1"}), "from 0 to 1");
  CHECK_THROWS(UsageError, parse({"--typical-p", "0"}), "above 0");
  CHECK_THROWS(UsageError, parse({"--repetition-penalty", "0"}), "from 0.01", "1.1");
  CHECK_THROWS(UsageError, parse({"--presence-penalty", "2.5"}), "from -2 to 2");
  CHECK_THROWS(UsageError, parse({"--no-repeat-ngram-size", "1.5"}), "whole number");
  for (const char* value :
       {"", "5", "5=", "=1", "5=x", "-1=2", "5=inf", "5=1e39", "5=1,", "5=nan"}) {
    CHECK_THROWS(UsageError, parse({"--logit-bias", value}), "--logit-bias", "5=-1.5");
  }
  CHECK_THROWS(UsageError, parse({"-p", "1.1"}), "1.1");
  CHECK_THROWS(UsageError, parse({"--min-p", "2"}), "from 0");
  CHECK_THROWS(UsageError, parse({"--top-k", "-3"}), "'-3'");
  CHECK_THROWS(UsageError, parse({"--top-k", "1.5"}), "whole number");
  CHECK_THROWS(UsageError, parse({"-n", "-1"}), "'-1'");
  CHECK_THROWS(UsageError, parse({"-n", "99999999999999999999"}), "whole number");
  CHECK_THROWS(UsageError, parse({"-s", "-1"}), "2^64-1");
  CHECK_THROWS(UsageError, parse({"-m", "talk"}), "'talk'", "generate or chat");
  CHECK_THROWS(UsageError, parse({"-l", "4"}), "'4'", "2 ", "3 ");
  CHECK_THROWS(UsageError, parse({"-lx"}), "'x'");
  CHECK_THROWS(UsageError, parse({"--threads", "0"}), "from 1 to 256");
  CHECK_THROWS(UsageError, parse({"--threads", "257"}), "'257'", "from 1 to 256");
  CHECK_THROWS(UsageError, parse({"--prefill-chunk", "0"}), "from 1");
  CHECK_THROWS(UsageError, parse({"-z", ""}), "tokenizer file");
  CHECK_THROWS(UsageError, parse({"--logits-out="}), "file");
  for (const char* value : {"", "1,", ",1", "1,,2", "1;2", "a", "-1", "99999999999"}) {
    CHECK_THROWS(UsageError, parse({"--tokens", value}), "1,2,3");
  }
}

TEST(unknown_flags_and_missing_values) {
  CHECK_THROWS(UsageError, parse({"--colour", "1"}), "--colour", "--help");
  CHECK_THROWS(UsageError, parse({"-q"}), "'-q'", "--help");
  CHECK_THROWS(UsageError, parse({"-n"}), "-n needs a value");
  CHECK_THROWS(UsageError, parse({"--stats=yes"}), "takes no value");
  CHECK_THROWS(UsageError, parse({"-vx"}), "takes no value");
  CHECK_THROWS(UsageError, parse({"second"}), "'second'", "quotes");
  CHECK_THROWS(UsageError, parse_args({}), "no model");
  CHECK_THROWS(UsageError, parse_args({""}), "empty");
}

TEST(near_misses_name_the_nearest) {
  CHECK_THROWS(UsageError, parse({"--temprature", "1"}),
               "unknown flag '--temprature': did you mean --temperature?");
  CHECK_THROWS(UsageError, parse({"--top_k=3"}), "unknown flag '--top_k': did you mean --top-k?");
  CHECK_THROWS(UsageError, parse({"--temp", "1"}), "did you mean --temperature?");
  CHECK_THROWS(UsageError, parse({"--promtp-file=x"}), "did you mean --prompt-file?");
  CHECK_THROWS(UsageError, parse({"--Stats"}), "did you mean --stats?");
  CHECK_THROWS(UsageError, parse({"-stats"}), "'-stats'", "did you mean --stats?");
  CHECK_THROWS(UsageError, parse({"-steps=5"}), "'-steps'", "did you mean --steps?");
  CHECK_THROWS(UsageError, parse({"-m", "chta"}), "'chta'", "did you mean chat?");
  CHECK_THROWS(UsageError, parse({"-m", "generat"}), "did you mean generate?");
  try {
    parse({"--verbatim-output"});
  } catch (const UsageError& error) {
    CHECK(std::string(error.what()).find("did you mean") == std::string::npos);
  }
}

TEST(flags_that_do_not_go_together) {
  CHECK_THROWS(UsageError, parse({"-f", "p", "-i", "x"}), "-f", "-i");
  CHECK_THROWS(UsageError, parse({"-f", "p", "--tokens", "1"}), "-f", "--tokens");
  CHECK_THROWS(UsageError, parse({"-f", "p", "--tokenize"}), "-f", "--tokenize");
  CHECK_THROWS(UsageError, parse({"-f", ""}), "text file");
  CHECK_THROWS(UsageError, parse({"--tokens", "1", "-i", "x"}), "--tokens", "-i");
  CHECK_THROWS(UsageError, parse({"-m", "chat", "--tokens", "1"}), "-m chat");
  CHECK_THROWS(UsageError, parse({"-m", "chat", "--logits-out", "x"}), "--logits-out");
  CHECK_THROWS(UsageError, parse({"-y", "x"}), "-m chat");
  CHECK_THROWS(UsageError, parse({"--json"}), "--stats");
  for (const auto& [flag, value] : {std::pair{"--think", "on"}, {"--tools", "t.json"}, {"--date", "2024-07-26"}}) {
    CHECK_THROWS(UsageError, parse({flag, value}), flag, "need -m chat");
  }
}

TEST(what_the_chat_template_is_told) {
  const Args args = parse({"-m", "chat", "--think", "off", "--tools", "t.json", "--date=2024-07-26"});
  CHECK(args.think == false && args.tools_path == "t.json");
  CHECK(args.date && args.date->tm_year == 124 && args.date->tm_mon == 6 && args.date->tm_mday == 26);
  CHECK_THROWS(UsageError, parse({"-m", "chat", "--think", "yes"}), "'yes'", "on or off");
  CHECK_THROWS(UsageError, parse({"-m", "chat", "--date", "26.7.2024"}), "'26.7.2024'", "2024-07-26");
  CHECK_THROWS(UsageError, parse({"-m", "chat", "--tools", ""}), "a JSON file");
}

TEST(help_names_every_flag) {
  const std::string text = help_text("et_run", "executorch");
  for (const char* flag : {"-t, --temperature", "-p, --top-p",
                           "--top-k",           "--min-p",
                           "-s, --seed",        "-n, --steps",
                           "-i, --prompt",      "-z, --tokenizer",
                           "-f, --prompt-file", "--steps",
                           "-m, --mode",        "-y, --system-prompt",
                           "-v, --verbose",     "-l, --llama-version",
                           "--threads",         "--ignore-eos",
                           "--tokens",          "--logits-out",
                           "--stats",           "--json",
                           "--tokenize",        "--prefill-chunk",
                           "-h, --help"}) {
    if (text.find(flag) == std::string::npos) CHECK_EQ(flag, "in the help text");
  }
}

CHECK_MAIN()
