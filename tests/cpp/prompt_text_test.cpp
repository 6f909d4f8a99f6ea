#include "runner/prompt_text.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "runner/error.h"
#include "tests/cpp/check.h"

using namespace runner;
namespace fs = std::filesystem;

namespace {

const std::string path =
    (fs::temp_directory_path() / ("prompt_text_test-" + std::to_string(getpid()))).string();

struct Removed {
  ~Removed() { fs::remove(path); }
} removed;

std::string from_file(const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return prompt_from_file(path);
}

// Standard input is `bytes` from a file, or closed.
std::optional<std::string> from_stdin(const std::optional<std::string>& bytes) {
  const int before = dup(STDIN_FILENO);
  close(STDIN_FILENO);
  if (bytes) {
    std::ofstream(path, std::ios::binary) << *bytes;
    (void)open(path.c_str(), O_RDONLY);
  }
  std::optional<std::string> prompt;
  try {
    prompt = prompt_from_stdin([] {});
  } catch (...) {
    dup2(before, STDIN_FILENO);
    close(before);
    throw;
  }
  dup2(before, STDIN_FILENO);
  close(before);
  return prompt;
}

}  // namespace

TEST(marks_and_one_line_end_are_left_out) {
  CHECK_EQ(from_file("a\nb"), "a\nb");
  CHECK_EQ(from_file("a\nb\n"), "a\nb");
  CHECK_EQ(from_file("a\n\n"), "a\n");
  CHECK_EQ(from_file("a\r\nb\r\n"), "a\r\nb");
  CHECK_EQ(from_file("\xef\xbb\xbf\xc3\xbc\n"), "\xc3\xbc");
  CHECK_EQ(from_file(""), "");
  const std::string large(3 << 20, 'x');
  CHECK_EQ(from_file(large + "\n") == large, true);
}

TEST(standard_input) {
  CHECK(!from_stdin(std::nullopt));
  CHECK(!from_stdin(""));
  CHECK_EQ(*from_stdin("\xef\xbb\xbfone\ntwo\n"), "one\ntwo");
  CHECK_THROWS(Error, from_stdin("a\xff"), "standard input", "0xff at offset 1");
}

TEST(what_is_not_text_is_said) {
  CHECK_THROWS(Error, prompt_from_file(path + ".nosuch"), ".nosuch", "No such file", "-f");
  CHECK_THROWS(Error, prompt_from_file(fs::temp_directory_path().string()), "directory",
               "UTF-8 text file");
  CHECK_THROWS(Error, from_file("ab\xe4 "), path, "byte 0xe4 at offset 2", "iconv");
  CHECK_THROWS(Error, from_file("\xef\xbf" "a"), "byte 0xef at offset 0");
  CHECK_THROWS(Error, from_file("\xff\xfe" "a"), "byte 0xff at offset 0", "iconv");
  CHECK_THROWS(Error, from_file(std::string("a\0b", 3)), "byte 0 at offset 1", "UTF-8");
}

CHECK_MAIN()
