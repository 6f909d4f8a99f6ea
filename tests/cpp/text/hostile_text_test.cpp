#include <filesystem>
#include <fstream>

#include "system/error.h"
#include "tests/cpp/check.h"
#include "text/json_nesting.h"
#include "text/printable.h"
#include "text/split_pattern.h"
#include "text/tokenizer.h"

using namespace runner;

namespace {

std::string nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

}  // namespace

TEST(escape_sequences_do_not_reach_a_terminal) {
  CHECK_EQ(printable("a\x1b]0;b\x07" "c"), "a ]0;b c");
  CHECK_EQ(printable("a\xC2\x9B" "2Jb\xC2\x85"), "a 2Jb ");
  CHECK_EQ(printable("\xC2\xA0\xC3\xA9\xEF\xBF\xBD\xFF"), "\xC2\xA0\xC3\xA9\xEF\xBF\xBD\\xff");
}

TEST(nesting_is_counted_outside_of_strings) {
  check_nesting(nested(100));
  check_nesting("\"" + std::string(200, '[') + "\\\"" + std::string(200, '{') + "\"");
  CHECK_THROWS(Error, check_nesting(nested(101)), "more than 100");
  CHECK_THROWS(Error, check_nesting("{\"a\\\\\": " + nested(101) + "}"), "more than 100");
}

// PCRE2's own bound of steps is 10 million a match.
TEST(long_texts_without_a_match_are_split) {
  const SplitPattern pattern(R"(\G(?s:.*?)(?:b|c|\d))");
  const std::string text(3'000'000, 'a');
  CHECK_EQ(pattern.split({text}), std::vector<std::string_view>{text});
  CHECK_EQ(pattern.split({text + "b" + text}).size(), size_t{2});
  // What tries every way to go through a text ends.
  const std::string some(100'000, 'a');
  CHECK_THROWS(Error, SplitPattern("(?:a|aa)+[bc]").split({some}), "shorter text");
}

TEST(deep_json_beside_a_tokenizer_is_an_error) {
  const auto folder = std::filesystem::temp_directory_path() / "hostile_text_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "tokenizer.json").string();
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name) << text;
  };
  write("tokenizer.json", R"({"model": {"dropout": )" + nested(200'000) + "}}");
  CHECK_THROWS(Error, Tokenizer::from_file(path), path, "more than 100");
  write("tokenizer.json", R"({"model": {"vocab": {"a": 0}, "merges": []}})");
  write("added_tokens.json", R"({"b": )" + nested(200'000) + "}");
  CHECK_THROWS(Error, Tokenizer::from_file(path), "added_tokens.json", "more than 100");
  write("added_tokens.json", R"({"b": 99999999999})");
  CHECK_THROWS(Error, Tokenizer::from_file(path), "added_tokens.json", "'b'");
  std::filesystem::remove(folder / "added_tokens.json");
  for (const char* members :
       {R"("eos_token": ["a"])", R"("pad_token": 7)", R"("bos_token": {"content": 5})",
        R"("extra_special_tokens": "<|x|>")", R"("additional_special_tokens": [null])",
        R"("tokenizer_class": 5)"}) {
    write("tokenizer_config.json", std::string("{") + members + "}");
    const std::string key = std::string(members).substr(1, std::string(members).find(':') - 2);
    CHECK_THROWS(Error, Tokenizer::from_file(path), "tokenizer_config.json", key, "correct or remove");
  }
  std::filesystem::remove_all(folder);
}

CHECK_MAIN()
