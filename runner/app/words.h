#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace runner {

// Writes a number with `digits` digits after the point.
inline std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// Writes "1 text" or "6 texts".
inline std::string counted(int64_t count, const char* noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

}  // namespace runner
