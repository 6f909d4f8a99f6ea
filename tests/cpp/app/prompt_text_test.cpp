#include "app/prompt_text.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "system/error.h"
#include "system/interrupt.h"
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

// Standard input is `descriptor`, which is closed after; closed where it is -1.
std::optional<std::string> from_descriptor(int descriptor) {
  struct Before {
    int descriptor = dup(STDIN_FILENO);
    ~Before() {
      dup2(descriptor, STDIN_FILENO);
      close(descriptor);
    }
  } before;
  close(STDIN_FILENO);
  if (descriptor >= 0) {
    dup2(descriptor, STDIN_FILENO);
    close(descriptor);
  }
  return prompt_from_stdin([] {});
}

// Standard input is `bytes` from a file, or closed.
std::optional<std::string> from_stdin(const std::optional<std::string>& bytes) {
  if (!bytes) return from_descriptor(-1);
  std::ofstream(path, std::ios::binary) << *bytes;
  return from_descriptor(open(path.c_str(), O_RDONLY));
}

// Standard input is a pipe that `write` writes into and then closes.
std::optional<std::string> from_pipe(const std::function<void(int)>& write) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("no pipe");
  const std::jthread writer([&] {
    write(ends[1]);
    close(ends[1]);
  });
  return from_descriptor(ends[0]);
}

void write_until_nobody_reads(int descriptor, std::string_view text) {
  while (write(descriptor, text.data(), text.size()) > 0) {
  }
}

}  // namespace

TEST(marks_and_one_line_end_are_left_out) {
  CHECK_EQ(from_file("a\nb"), "a\nb");
  CHECK_EQ(from_file("a\nb\n"), "a\nb");
  CHECK_EQ(from_file("a\n\n"), "a\n");
  CHECK_EQ(from_file("a\r\nb\r\n"), "a\r\nb");
  CHECK_EQ(from_file("\xef\xbb\xbf\xc3\xbc\n"), "\xc3\xbc");
  CHECK_EQ(from_file(""), "");
  CHECK_EQ(from_file("a\r"), "a\r");  // no line end alone
  CHECK_EQ(from_file("a\r\r\n"), "a\r");
  CHECK_EQ(from_file("\n"), "");
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
  CHECK_THROWS(Error, from_file("ab\xe2\x82"), "byte 0xe2 at offset 2");
}

TEST(characters_may_be_cut_between_blocks) {
  std::string text = "a";
  while (text.size() < 300'000) text += "\xe2\x82\xac\xf0\x9f\x98\x80";
  CHECK(from_file(text) == text);
  CHECK_THROWS(Error, from_file(text + "\xff"), "0xff at offset " + std::to_string(text.size()));
  const auto slowly = [](int descriptor) {
    for (const char byte : std::string("\xf0\x9f\x98\x80\n")) {
      (void)!write(descriptor, &byte, 1);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  };
  CHECK_EQ(*from_pipe(slowly), "\xf0\x9f\x98\x80");
}

TEST(texts_without_an_end_are_refused_as_they_come) {
  std::signal(SIGPIPE, SIG_IGN);
  if (fs::is_character_file("/dev/zero")) {
    CHECK_THROWS(Error, prompt_from_file("/dev/zero"), "/dev/zero", "byte 0 at offset 0");
  }
  const std::string lines(1 << 16, '\n');
  CHECK_THROWS(Error, from_pipe([&](int d) { write_until_nobody_reads(d, lines); }),
               "standard input has more than 67108864 bytes", "at most 67108864 (64 MiB)");
  CHECK_THROWS(Error, from_pipe([&](int d) { write_until_nobody_reads(d, "\xe4 "); }),
               "byte 0xe4 at offset 0");
  CHECK_THROWS(Error, from_file(std::string((64 << 20) + 3, 'x')), path + " has 67108867 bytes",
               "64 MiB");
  CHECK_EQ(from_file(std::string(64 << 20, 'x')).size(), size_t{64 << 20});
}

TEST(an_interrupt_ends_the_reading) {
  catch_interrupts();
  const auto start = std::chrono::steady_clock::now();
  const auto interrupt_soon = [] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    kill(getpid(), SIGINT);
    while (!interrupted()) std::this_thread::yield();
  };
  // Nothing comes, and the pipe stays open until an interrupt was taken.
  CHECK(!from_pipe([&](int) {
    interrupt_soon();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }));
  CHECK(interrupted());
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(1900));
  CHECK(!from_stdin(std::string(1 << 20, 'x')));  // still marked: one that came before
  forget_interrupt();
  // Text comes without an end.
  CHECK(!from_pipe([&](int d) {
    (void)!write(d, "text\n", 5);
    interrupt_soon();
    write_until_nobody_reads(d, "y\n");
  }));
  CHECK(interrupted());
  forget_interrupt();
}

CHECK_MAIN()
