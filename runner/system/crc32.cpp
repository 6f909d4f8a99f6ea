#include "system/crc32.h"

#include <array>

namespace runner {
namespace {

// Tables for eight bytes at a time ("slicing by 8"); the reflected polynomial of ISO 3309.
using CrcTables = std::array<std::array<uint32_t, 256>, 8>;
CrcTables crc_tables() {
  CrcTables tables;
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320U : 0U);
    tables[0][i] = value;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t i = 0; i < 256; ++i) {
      const uint32_t before = tables[k - 1][i];
      tables[k][i] = before >> 8 ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

}  // namespace

uint32_t crc32_of(std::span<const std::byte> data, uint32_t before) {
  static const CrcTables kTables = crc_tables();
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(data[i]); };
  uint32_t crc = ~before;
  size_t i = 0;
  for (; data.size() - i >= 8; i += 8) {
    const uint32_t low = crc ^ (byte(i) | byte(i + 1) << 8 | byte(i + 2) << 16 | byte(i + 3) << 24);
    crc = kTables[7][low & 0xff] ^ kTables[6][low >> 8 & 0xff] ^ kTables[5][low >> 16 & 0xff] ^
          kTables[4][low >> 24] ^ kTables[3][byte(i + 4)] ^ kTables[2][byte(i + 5)] ^
          kTables[1][byte(i + 6)] ^ kTables[0][byte(i + 7)];
  }
  for (; i < data.size(); ++i) crc = crc >> 8 ^ kTables[0][(crc ^ byte(i)) & 0xff];
  return ~crc;
}

}  // namespace runner
