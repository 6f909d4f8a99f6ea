#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "system/whole_file.h"

namespace runner {

// Writes a float32 matrix [rows, columns] as NumPy's .npy format 1.0, row by row: a WholeFile, so
// that a failure leaves nothing half-written. Logits are numbers: a row with one that is not finite is
// a failure, too.
// Source: NEP 1, "A Simple File Format for NumPy Arrays".
class NpyWriter {
 public:
  // Throws Error when the file cannot be written.
  NpyWriter(const std::string& path, int64_t rows, int64_t columns);

  // Throws Error when the file cannot be written or a value is not finite.
  void write_row(std::span<const float> row);
  void commit();

 private:
  int64_t rows_written_ = 0;
  std::string path_;
  WholeFile file_;
};

}  // namespace runner
