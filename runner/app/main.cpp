// The one main() of et_run and aoti_run: they differ by the model file that is linked.

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "app/args.h"
#include "app/run.h"
#include "model/metadata.h"
#include "model/model.h"
#include "system/cpu_count.h"
#include "system/crash_line.h"
#include "system/error.h"
#include "system/interrupt.h"
#include "system/output.h"
#include "text/printable.h"

namespace {

// One line, whatever the message holds.
void say(const std::string& program, const std::string& message) {
  std::fprintf(stderr, "%s\n", runner::printable(program + ": " + message).c_str());
}

int fail(const std::string& program, const std::string& message, int status) {
  say(program, message);
  return status;
}

constexpr int kNoReader = 141;  // as a shell says of a program that SIGPIPE ended

// A file that is opened later must not become standard input, output or error where one is closed: a
// prompt would be read from it, or text written into it. Input is then empty; the others are a folder,
// which cannot be written, by the name /dev/stdout neither. open() takes the lowest descriptor.
void occupy_closed_streams() {
  if (fcntl(STDIN_FILENO, F_GETFD) < 0) (void)open("/dev/null", O_RDONLY);
  for (int stream : {STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(stream, F_GETFD) < 0) (void)open("/", O_RDONLY);
  }
}

// Whether this is a program of one file, with its model in it.
#ifdef MODEL_IN_PROGRAM
constexpr bool kOwnModel = true;
#else
constexpr bool kOwnModel = false;
#endif

// What the code asks of a CPU, for the line of an illegal instruction.
std::string_view cpu_needs() {
  if (runner::backend_name() == runner::kAotiBackend) {
    return "; the model's code may be for another CPU than this one: export it with the --target of this "
           "machine, or build the runner here";
  }
  return "; the runner's code may be for another CPU than this one: build it here";
}

}  // namespace

int main(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  std::string program = argc > 0 ? std::filesystem::path(argv[0]).filename().string() : "";
  if (program.empty()) program = "runner";
  try {
    occupy_closed_streams();
    std::signal(SIGPIPE, SIG_IGN);  // the write fails, and what is half-written is removed
    runner::catch_interrupts();
    const runner::Args args = runner::parse_args({argv + (argc > 0 ? 1 : 0), argv + argc}, kOwnModel ? program : "");
    if (args.help) {
      runner::write_text(stdout, runner::help_text(program, runner::backend_name(), kOwnModel));
      return 0;
    }
    runner::explain_crashes({.program = program, .needs = cpu_needs()});
    runner::set_crash_activity("loading " + runner::printable(args.model_path));
    if (const std::string word = runner::ignored_variable(args.threads); !args.tokenize && !word.empty()) {
      say(program, word);
    }
    return runner::run(args, start);
  } catch (const runner::NoReader&) {
    return kNoReader;
  } catch (const runner::UsageError& error) {
    return fail(program, error.what(), 2);
  } catch (const std::bad_alloc&) {
    return fail(program, "out of memory; use a smaller model or context", 1);
  } catch (const std::logic_error& error) {
    return fail(program,
                std::string("a bug of this program: ") + error.what() +
                    "; report it with this line and the command",
                1);
  } catch (const std::exception& error) {
    return fail(program, error.what(), 1);
  }
}
