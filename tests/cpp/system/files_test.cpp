// What touches files and the machine: whole files, .npy, standard output, CPU features.

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <iterator>
#include <system_error>

#include "system/cpu_features.h"
#include "system/error.h"
#include "system/npy.h"
#include "system/output.h"
#include "system/whole_file.h"
#include "tests/cpp/check.h"
#include "tests/cpp/folder.h"

using namespace runner;
namespace fs = std::filesystem;

TEST(whole_files_touch_no_other_file) {
  const Folder folder;
  const std::string path = folder.file("f"), pid = std::to_string(getpid());
  const std::string precious = write(folder.file("precious"), "precious");
  write(path + ".tmp", "mine");
  write(path + "." + pid + "-0.tmp", "mine too");  // even the name that would come first
  fs::create_symlink(precious, path + "." + pid + "-1.tmp");
  fs::create_symlink(folder.file("nosuch"), path + "." + pid + "-2.tmp");
  for (const bool commits : {true, false}) {
    WholeFile one(path), two(path);
    one.write("one");
    two.write("two");
    if (commits) one.commit();
  }
  CHECK_EQ(read(path), "one");
  CHECK_EQ(read(precious), "precious");
  CHECK_EQ(read(path + ".tmp"), "mine");
  CHECK_EQ(read(path + "." + pid + "-0.tmp"), "mine too");
  CHECK(!fs::exists(folder.file("nosuch")));
  CHECK_EQ(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()), 6);
}

TEST(whole_files_have_the_permissions_of_any_new_file) {
  const Folder folder;
  for (const mode_t mask : {mode_t{022}, mode_t{077}}) {
    const mode_t before = umask(mask);
    WholeFile(folder.file("f")).commit();
    umask(before);
    struct stat status = {};
    CHECK_EQ(stat(folder.file("f").c_str(), &status), 0);
    CHECK_EQ(status.st_mode & 0777, 0666 & ~mask);
  }
  CHECK_THROWS(std::system_error, WholeFile(folder.file("nosuch/f")), "No such file");
  WholeFile replaced(folder.file("g"));
  fs::create_directory(folder.file("g"));
  CHECK_THROWS(std::system_error, replaced.commit(), "irectory");
}

TEST(npy_is_what_numpy_reads) {
  const Folder folder;
  const std::string path = folder.file("l.npy");
  NpyWriter writer(path, 2, 3);
  writer.write_row(std::vector<float>{1, 2, 3});
  writer.write_row(std::vector<float>{4, 5, 6.5});
  CHECK(!fs::exists(path));
  writer.commit();
  CHECK_EQ(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()), 1);
  const std::string bytes = read(path);
  CHECK_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\1\0", 8));
  const size_t header =
      static_cast<unsigned char>(bytes[8]) + 256u * static_cast<unsigned char>(bytes[9]);
  CHECK_EQ((10 + header) % 64, 0u);
  CHECK_EQ(bytes[9 + header], '\n');
  CHECK(bytes.find("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }") == 10);
  CHECK_EQ(bytes.size(), 10 + header + 24);
  float last = 0;
  bytes.copy(reinterpret_cast<char*>(&last), 4, bytes.size() - 4);
  CHECK_EQ(last, 6.5f);
}

TEST(npy_takes_numbers_only) {
  const Folder folder;
  const std::string path = folder.file("l.npy");
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    NpyWriter writer(path, 3, 2);
    writer.write_row(std::vector<float>{1, 2});
    const std::vector<float> row = {0, bad};
    CHECK_THROWS(Error, writer.write_row(row), "position 1", "not finite", path, "--dtype fp32");
  }
  CHECK(fs::is_empty(folder.path));
}

TEST(npy_leaves_nothing_half_written) {
  const Folder folder;
  const std::string path = folder.file("l.npy");
  {
    NpyWriter(path, 2, 3).write_row(std::vector<float>{1, 2, 3});
  }
  CHECK(fs::is_empty(folder.path));
  CHECK_THROWS(Error, NpyWriter(folder.file("no/such/l.npy"), 1, 1), "l.npy", "--logits-out");

  // A full disk, played by a limit on the size of files.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{100'000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const auto fill = [&] {
    NpyWriter writer(path, 100, 1000);
    for (int i = 0; i < 100; ++i) writer.write_row(std::vector<float>(1000));
    writer.commit();
  };
  CHECK_THROWS(Error, fill(), "l.npy", "--logits-out");
  setrlimit(RLIMIT_FSIZE, &before);
  CHECK(fs::is_empty(folder.path));
}

TEST(npy_goes_into_a_device_and_does_not_replace_it) {
  if (!fs::is_character_file("/dev/full")) return;
  const auto fill = [] {
    NpyWriter writer("/dev/full", 1, 1);
    writer.write_row(std::vector<float>{1});
    writer.commit();
  };
  CHECK_THROWS(Error, fill(), "/dev/full", "the disk is full");
  CHECK(fs::is_character_file("/dev/full"));
  NpyWriter("/dev/null", 1, 1).commit();
}

TEST(output_that_cannot_be_written_is_an_error) {
  std::FILE* full = std::fopen("/dev/full", "w");
  if (!full) return;
  CHECK_THROWS(Error, write_text(full, "text"), "cannot write", "standard output");
  for (std::FILE* stream : {stdout, stderr}) {
    std::fflush(stream);
    const int before = dup(fileno(stream));
    dup2(fileno(full), fileno(stream));
    std::string said;
    try {
      write_text(stream, "text");
    } catch (const Error& error) {
      said = error.what();
    }
    dup2(before, fileno(stream));
    close(before);
    CHECK(said.ends_with(stream == stdout ? "standard output goes" : "standard error goes"));
  }
  std::fclose(full);
}

TEST(output_that_nobody_reads_is_no_error_line) {
  std::signal(SIGPIPE, SIG_IGN);
  int ends[2];
  CHECK_EQ(pipe(ends), 0);
  close(ends[0]);
  std::fflush(stdout);
  const int before = dup(STDOUT_FILENO);
  dup2(ends[1], STDOUT_FILENO);
  close(ends[1]);
  bool gone = false;
  try {
    write_text(stdout, "text");
  } catch (const NoReader&) {
    gone = true;
  }
  dup2(before, STDOUT_FILENO);
  close(before);
  CHECK(gone);
}

TEST(cpu_features_are_compared_by_name) {
  CHECK_EQ(missing_features({"avx2", "amx_tile", "fma"}, {"fma", "avx2", "sse"}),
           (std::vector<std::string>{"amx_tile"}));
  CHECK(missing_features({}, {}).empty());
  if (fs::exists("/proc/cpuinfo")) CHECK(cpu_features().has_value() && !cpu_features()->empty());
}

CHECK_MAIN()
