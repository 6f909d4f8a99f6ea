#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace runner {

inline constexpr std::string_view kByteNameDigits = "0123456789ABCDEF";
inline constexpr size_t kByteNameSize = 6;

// The byte that a piece of the form <0xFF> names, if it has that form.
inline std::optional<uint8_t> named_byte(std::string_view piece) {
  constexpr std::string_view kDigits = kByteNameDigits;
  if (piece.size() != kByteNameSize || !piece.starts_with("<0x") || piece[5] != '>') return std::nullopt;
  const size_t high = kDigits.find(piece[3]), low = kDigits.find(piece[4]);
  if (high == kDigits.npos || low == kDigits.npos) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

// The other way round.
inline std::string name_of_byte(uint8_t byte) {
  return {'<', '0', 'x', kByteNameDigits[byte >> 4], kByteNameDigits[byte & 15], '>'};
}

}  // namespace runner
