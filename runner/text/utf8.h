#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace runner {

// `text` with every maximal ill-formed part replaced by U+FFFD, as Python's errors="replace" and
// Rust's from_utf8_lossy do.
std::string to_valid_utf8(std::string_view text);

// Bytes of `text` before its first ill-formed part; all of them when there is none.
size_t valid_utf8_prefix(std::string_view text);

// Bytes of `text` before a sequence at its end that is well-formed so far but cut off.
size_t complete_utf8_prefix(std::string_view text);

// Bytes of the character that begins `valid_text`, which is not empty.
size_t utf8_length(std::string_view valid_text);

// The number of a whole character, and the way back.
uint32_t code_point(std::string_view valid_character);
void append_utf8(std::string& text, uint32_t code_point);

// The last character of `valid_text`; "" where it is empty.
std::string_view last_character(std::string_view valid_text);

// Where the run of Unicode White_Space that ends at `end` begins, `begin` at the earliest; where
// the run that starts at `begin` ends. The text is valid UTF-8.
size_t space_begin(std::string_view valid_text, size_t begin, size_t end);
size_t space_end(std::string_view valid_text, size_t begin);

// Without the white space at one end that Python's str.lstrip and str.rstrip take off.
std::string_view strip_left(std::string_view valid_text);
std::string_view strip_right(std::string_view valid_text);

}  // namespace runner
