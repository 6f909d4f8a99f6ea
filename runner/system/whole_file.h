#pragma once

#include <string>
#include <string_view>

namespace runner {

// Writes a file that appears whole or not at all: under a new name beside its own, which commit()
// gives it. No other file is touched, whatever its name. A path that exists and is no ordinary file
// (/dev/stdout, a pipe) is written itself.
class WholeFile {
 public:
  // Each of the three throws std::system_error when the file cannot be made or written.
  explicit WholeFile(const std::string& path);
  void write(std::string_view bytes);
  void commit();

  ~WholeFile();  // without a commit(): removes what was written
  WholeFile(const WholeFile&) = delete;
  WholeFile& operator=(const WholeFile&) = delete;

 private:
  std::string path_, temporary_path_;  // the second is empty where there is nothing to rename
  int descriptor_ = -1;
};

}  // namespace runner
