// Loads a model again and again, and runs it each time: what stays behind is counted.
//   reload_tool MODEL TIMES
// Prints the resident bytes and the mappings after a tenth of the times and after all of them.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "model/session.h"
#include "system/error.h"

namespace {

struct Held {
  long resident_bytes = 0, mappings = 0;
};

Held held() {
  Held now;
  std::ifstream status("/proc/self/statm");
  long total = 0, resident_pages = 0;
  status >> total >> resident_pages;
  now.resident_bytes = resident_pages * sysconf(_SC_PAGESIZE);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) ++now.mappings;
  return now;
}

void load_and_run(const std::string& path) {
  const auto model = runner::load_model(path, {.threads = 2});
  runner::Session session(*model, model->make_state({}));
  session.append(std::vector<int32_t>{1, 2, 3});
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw runner::Error("usage: reload_tool MODEL TIMES");
  const int times = std::atoi(argv[2]);
  for (int i = 1; i <= times; ++i) {
    load_and_run(argv[1]);
    if (i != times / 10 && i != times) continue;
    const Held now = held();
    std::printf("%d %ld %ld\n", i, now.resident_bytes, now.mappings);
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << "reload_tool: " << error.what() << "\n";
  return 1;
}
