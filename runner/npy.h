#pragma once

#include <cstdint>
#include <fstream>
#include <span>
#include <string>

namespace runner {

// Writes a float32 matrix [rows, columns] as NumPy's .npy format 1.0, row by row: into PATH.tmp,
// which commit() renames to PATH, so that a failure leaves nothing half-written. A PATH that exists
// and is no ordinary file (/dev/stdout, a pipe) is written itself. Logits are numbers: a row with one that
// is not finite is a failure, too.
// Source: NEP 1, "A Simple File Format for NumPy Arrays".
class NpyWriter {
 public:
  // Throws Error when the file cannot be written.
  NpyWriter(const std::string& path, int64_t rows, int64_t columns);
  ~NpyWriter();  // without a commit(): removes what was written
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;

  // Throws Error when the file cannot be written or a value is not finite.
  void write_row(std::span<const float> row);
  void commit();

 private:
  [[noreturn]] void fail(const std::string& doing, int error_number) const;

  int64_t rows_written_ = 0;
  std::string path_, temporary_path_;  // the second is empty once there is nothing to remove
  std::ofstream file_;
};

}  // namespace runner
