#include "decode/stop_strings.h"

#include "tests/cpp/check.h"

using namespace runner;

namespace {

// What is shown of `pieces`, with a bar after each and at the end.
std::string shown(std::vector<std::string> stops, const std::vector<std::string>& pieces,
                  const std::string& before = "") {
  StopStrings stop_strings(std::move(stops));
  stop_strings.precede(before);
  std::string result;
  for (const std::string& piece : pieces) {
    result += stop_strings.push(piece, piece.size()) + "|";
    if (stop_strings.found()) return result + "found" + stop_strings.finish();
  }
  return result + stop_strings.finish();
}

}  // namespace

TEST(text_ends_before_a_stop_string_wherever_it_is_cut) {
  CHECK_EQ(shown({"END"}, {"abENDcd"}), "ab|found");
  CHECK_EQ(shown({"END"}, {"a", "bE", "N", "Dcd"}), "a|b|||found");
  CHECK_EQ(shown({"END"}, {"abE", "xEN", "EEND"}), "ab|Ex|ENE|found");
  CHECK_EQ(shown({"END"}, {"ab", "EN"}), "ab||EN");
  CHECK_EQ(shown({}, {"ab", "EN"}), "ab|EN|");
  CHECK_EQ(shown({"", "x"}, {"ab"}), "ab|");
}

TEST(what_may_begin_a_stop_string_is_held_back_and_no_more) {
  CHECK_EQ(shown({"aab"}, {"a", "a", "a", "c"}), "||a|aac|");
  CHECK_EQ(shown({"aab"}, {"a", "a", "a", "b"}), "||a||found");
  CHECK_EQ(shown({"\n\nQ"}, {"x\n", "\n", "y"}), "x||\n\ny|");
}

TEST(of_several_the_one_that_begins_first_ends_the_text) {
  CHECK_EQ(shown({"b", "abc"}, {"xa", "bc"}), "x||found");
  CHECK_EQ(shown({"cd", "bcx"}, {"ab", "cd"}), "a|b|found");
}

TEST(a_stop_string_may_begin_before_the_text_and_not_end_there) {
  CHECK_EQ(shown({"User:"}, {"er", ": x"}, "a Us"), "||found");
  CHECK_EQ(shown({"User:"}, {"x"}, "User:"), "x|");
  CHECK_EQ(shown({"User:"}, {"e", "x"}, "Us"), "|ex|");
}

TEST(characters_of_several_bytes) {
  CHECK_EQ(shown({"é"}, {"aé"}), "a|found");
  CHECK_EQ(shown({"日本"}, {"日", "日", "本"}), "|日||found");
}

TEST(what_is_not_to_be_shown_is_matched) {
  StopStrings stops({"<|end|>\n"});
  CHECK_EQ(stops.push("hi", 2), "hi");
  CHECK_EQ(stops.push("<|end|>", 0), "");
  CHECK_EQ(stops.push("x", 1), "x");
  CHECK_EQ(stops.push("<|end|>", 0), "");
  CHECK_EQ(stops.push("\n", 1), "");
  CHECK(stops.found());
}

CHECK_MAIN()
