// The one main() of et_run and aoti_run: they differ by the model file that is linked.

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <vector>

#include "runner/args.h"
#include "runner/crash_line.h"
#include "runner/error.h"
#include "runner/interrupt.h"
#include "runner/model.h"
#include "runner/output.h"
#include "runner/run.h"

namespace {

// One line for any failure, whatever the message holds.
int fail(const std::string& program, const char* message, int status) {
  std::string line = program + ": " + message;
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';  // one line, and no escapes
  }
  std::fprintf(stderr, "%s\n", line.c_str());
  return status;
}

// A file that is opened later must not become standard input, which a prompt is read from.
void keep_closed_input_empty() {
  if (fcntl(STDIN_FILENO, F_GETFD) < 0) (void)open("/dev/null", O_RDONLY);
}

}  // namespace

int main(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  const std::string program =
      argc > 0 ? std::filesystem::path(argv[0]).filename().string() : "runner";
  try {
    keep_closed_input_empty();
    std::signal(SIGPIPE, SIG_IGN);  // a reader that went away is an Error of the write
    runner::catch_interrupts();
    const runner::Args args = runner::parse_args({argv + (argc > 0 ? 1 : 0), argv + argc});
    if (args.help) {
      runner::write_text(stdout, runner::help_text(program, runner::backend_name()));
      return 0;
    }
    runner::end_crashes_with(program + ": " + args.model_path +
                             " made this program crash: it is damaged, or was made for another "
                             "version of it; copy or export it again");
    return runner::run(args, start);
  } catch (const runner::UsageError& error) {
    return fail(program, error.what(), 2);
  } catch (const std::bad_alloc&) {
    return fail(program, "out of memory; use a smaller model or context", 1);
  } catch (const std::exception& error) {
    return fail(program, error.what(), 1);
  } catch (...) {
    return fail(program, "failed for an unknown reason", 1);
  }
}
