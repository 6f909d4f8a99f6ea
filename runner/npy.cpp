#include "runner/npy.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "runner/error.h"

namespace runner {

static_assert(std::endian::native == std::endian::little, "rows are written as they lie in memory");

NpyWriter::NpyWriter(const std::string& path, int64_t rows, int64_t columns) : path_(path) {
  std::error_code absent;
  const auto status = std::filesystem::status(path, absent);
  const bool renames = !std::filesystem::exists(status) || is_regular_file(status);
  const std::string written_path = renames ? path + ".tmp" : path;
  errno = 0;
  file_.open(written_path, std::ios::binary | std::ios::trunc);
  if (!file_) fail("open", errno);
  if (renames) temporary_path_ = written_path;

  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(rows) + ", " + std::to_string(columns) + "), }";
  constexpr size_t kPrefix = 10, kAlignment = 64;  // magic, version and header length come first
  const size_t unpadded = kPrefix + header.size() + 1;
  header.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  header.push_back('\n');
  const auto length = static_cast<uint16_t>(header.size());
  std::string prefix("\x93NUMPY\x01\x00", 8);
  prefix += static_cast<char>(length & 0xff);
  prefix += static_cast<char>(length >> 8);
  file_.write(prefix.data(), kPrefix);
  file_.write(header.data(), static_cast<std::streamsize>(header.size()));
}

NpyWriter::~NpyWriter() {
  if (temporary_path_.empty()) return;
  file_.close();
  std::remove(temporary_path_.c_str());
}

void NpyWriter::write_row(std::span<const float> row) {
  if (!std::ranges::all_of(row, [](float x) { return std::isfinite(x); })) {
    throw Error("the logits of position " + std::to_string(rows_written_) +
                " are not finite, and are not written to " + path_ + kNotNumbers);
  }
  ++rows_written_;
  errno = 0;
  file_.write(reinterpret_cast<const char*>(row.data()),
              static_cast<std::streamsize>(row.size_bytes()));
  if (!file_) fail("write", errno);
}

void NpyWriter::commit() {
  errno = 0;
  file_.close();
  if (!file_) fail("write", errno);
  if (temporary_path_.empty()) return;
  if (std::rename(temporary_path_.c_str(), path_.c_str()) != 0) fail("write", errno);
  temporary_path_.clear();
}

void NpyWriter::fail(const std::string& doing, int error_number) const {
  throw Error("cannot " + doing + " " + path_ + ": " +
              (error_number == ENOSPC || error_number == EDQUOT ? "the disk is full"
               : error_number                                  ? std::strerror(error_number)
                                                               : "write failed") +
              "; give --logits-out a path in a writable folder with room");
}

}  // namespace runner
