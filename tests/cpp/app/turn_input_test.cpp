#include "app/turn_input.h"

#include "tests/cpp/check.h"

using namespace runner;

namespace {

// What read_turn makes of whole lines: commands as <TEXT>, turns as TEXT.
std::vector<std::string> turns(const std::vector<std::string>& lines,
                               const std::function<bool()>& interrupted = nullptr) {
  size_t next = 0;
  const ReadLine read_line = [&](bool) -> std::optional<std::string> {
    if (next == lines.size()) return std::nullopt;
    return lines[next++];
  };
  std::vector<std::string> result;
  while (auto turn = read_turn(read_line, interrupted)) {
    result.push_back(turn->is_command ? "<" + turn->text + ">" : turn->text);
  }
  return result;
}

using Lines = std::vector<std::string>;

}  // namespace

TEST(a_line_is_a_turn_and_blank_ones_are_none) {
  CHECK_EQ(turns({"a", "", " \t", "b\r", " c "}), (Lines{"a", "b", " c "}));
}

TEST(a_backslash_at_the_end_goes_on) {
  CHECK_EQ(turns({"a\\", "b\\\r", "c", "d"}), (Lines{"a\nb\nc", "d"}));
  CHECK_EQ(turns({"a\\", "", "b"}), (Lines{"a\n", "b"}));
  CHECK_EQ(turns({"\\", "", "b"}), (Lines{"b"}));
  CHECK_EQ(turns({"a\\"}), (Lines{"a"}));
  CHECK_EQ(turns({"a \\\\", "b"}), (Lines{"a \\\\", "b"}));
  CHECK_EQ(turns({"a\\\\\\", "b"}), (Lines{"a\\\\\nb"}));
  CHECK_EQ(turns({"a\\", "/help"}), (Lines{"a\n/help"}));
}

TEST(a_block_is_taken_as_it_stands) {
  CHECK_EQ(turns({"\"\"\"", "", "  a\\", "/exit", "", "\"\"\"", "b"}),
           (Lines{"\n  a\\\n/exit\n", "b"}));
  CHECK_EQ(turns({"\"\"\" ", "a\r", "\"\"\"\r"}), (Lines{"a"}));
  CHECK_EQ(turns({"\"\"\"", "\"\"\"", "b"}), (Lines{"b"}));
  CHECK_EQ(turns({"\"\"\"", "a", "b"}), (Lines{"a\nb"}));
  CHECK_EQ(turns({"\"\"\"a\"\"\"", "b"}), (Lines{"\"\"\"a\"\"\"", "b"}));
}

TEST(a_slash_makes_a_command) {
  CHECK_EQ(turns({"/help", "//bin/sh is what?", " /x", "/system a\\", "b"}),
           (Lines{"</help>", "/bin/sh is what?", " /x", "</system a\\>", "b"}));
}

TEST(an_interrupt_drops_what_was_begun) {
  for (const char* begun : {"\"\"\"", "a\\"}) {
    CHECK(turns({begun, "b"}, [] { return true; }).empty());
  }
}

TEST(only_lines_after_the_first_are_within) {
  const Lines lines = {"a\\", "b", "\"\"\"", "c", "\"\"\"", "d"};
  std::string within;
  size_t next = 0;
  const ReadLine read_line = [&](bool inside) -> std::optional<std::string> {
    if (next == lines.size()) return std::nullopt;
    within += inside ? 'w' : '-';
    return lines[next++];
  };
  while (read_turn(read_line, nullptr)) {
  }
  CHECK_EQ(within, "-w-ww-");
}

CHECK_MAIN()
