#include "system/peak_memory.h"

#include <sys/resource.h>

#include <fstream>
#include <string>

namespace runner {

int64_t peak_rss_bytes() {
  // Linux's getrusage also counts what the parent had when it forked.
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kibibytes = 0;
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes * 1024;
  }
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
  return usage.ru_maxrss;
#else
  return usage.ru_maxrss * int64_t{1024};
#endif
}

}  // namespace runner
