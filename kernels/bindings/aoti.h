#pragma once

#include <string>

namespace lowbit {

// What an operator says where memory runs out.
inline constexpr const char* kOutOfMemory = "out of memory";

// What the last operator that failed on this thread said; the C interface has only a status.
const std::string& last_error();
void clear_last_error();

}  // namespace lowbit
