#include "text/printable.h"

#include "text/utf8.h"

namespace runner {
namespace {

constexpr std::string_view kHex = "0123456789abcdef";

// Bytes of the well-formed character that `text`, not empty, begins with; 0 for none.
size_t character_length(std::string_view text) {
  for (size_t n = 1; n <= 4 && n <= text.size(); ++n) {
    const std::string_view part = text.substr(0, n);
    if (to_valid_utf8(part) == part) return n;
  }
  return 0;
}

// ASCII's, and those from U+0080 to U+009F, which terminals take for escape sequences too.
bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 2) return first == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0;
  return first < ' ' || first == 0x7f;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    const size_t length = character_length(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      line += {'\\', 'x', kHex[first >> 4], kHex[first & 15]};
    } else if (is_control(text.substr(0, length))) {
      line += ' ';
    } else {
      line += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return line;
}

}  // namespace runner
