#include "system/npy.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <system_error>

#include "system/error.h"

namespace runner {
namespace {

static_assert(std::endian::native == std::endian::little, "rows are written as they lie in memory");

// What `step` returns; where it fails, the Error of doing it to the file at `path`.
template <class Step>
auto checked(const char* doing, const std::string& path, Step step) {
  try {
    return step();
  } catch (const std::system_error& error) {
    const int number = error.code().value();
    throw Error(std::string("cannot ") + doing + " " + path + ": " +
                (number == ENOSPC || number == EDQUOT ? "the disk is full" : error.code().message()) +
                "; give --logits-out a path in a writable folder with room");
  }
}

// The bytes before the first row.
std::string header(int64_t rows, int64_t columns) {
  std::string words = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                      std::to_string(rows) + ", " + std::to_string(columns) + "), }";
  constexpr size_t kPrefix = 10, kAlignment = 64;  // magic, version and the words' length come first
  const size_t unpadded = kPrefix + words.size() + 1;
  words.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  words.push_back('\n');
  const auto length = static_cast<uint16_t>(words.size());
  std::string prefix("\x93NUMPY\x01\x00", 8);
  prefix += static_cast<char>(length & 0xff);
  prefix += static_cast<char>(length >> 8);
  return prefix + words;
}

}  // namespace

NpyWriter::NpyWriter(const std::string& path, int64_t rows, int64_t columns)
    : path_(path), file_(checked("open", path, [&] { return WholeFile(path); })) {
  checked("write", path_, [&] { file_.write(header(rows, columns)); });
}

void NpyWriter::write_row(std::span<const float> row) {
  if (!std::ranges::all_of(row, [](float x) { return std::isfinite(x); })) {
    throw Error("the logits of position " + std::to_string(rows_written_) +
                " are not finite, and are not written to " + path_ + kNotNumbers);
  }
  ++rows_written_;
  const std::string_view bytes(reinterpret_cast<const char*>(row.data()), row.size_bytes());
  checked("write", path_, [&] { file_.write(bytes); });
}

void NpyWriter::commit() {
  checked("write", path_, [&] { file_.commit(); });
}

}  // namespace runner
