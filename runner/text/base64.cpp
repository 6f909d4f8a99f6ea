#include "text/base64.h"

#include <cstdint>

#include "system/error.h"

namespace runner {
namespace {

int value_of(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

}  // namespace

std::string decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) throw Error("damaged base64: its length is not a multiple of 4");
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  text.remove_suffix(padding);

  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 2);
  uint32_t bits = 0;
  int n_bits = 0;
  for (char c : text) {
    const int value = value_of(c);
    if (value < 0) throw Error("damaged base64: a character outside its alphabet");
    bits = (bits << 6 | static_cast<uint32_t>(value)) & 0xffffff;
    n_bits += 6;
    if (n_bits >= 8) {
      n_bits -= 8;
      bytes.push_back(static_cast<char>(bits >> n_bits & 0xff));
    }
  }
  if ((bits & ((1u << n_bits) - 1)) != 0) throw Error("damaged base64: bits after its end");
  return bytes;
}

}  // namespace runner
