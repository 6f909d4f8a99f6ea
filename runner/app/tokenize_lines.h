#pragma once

#include <cstdio>
#include <iosfwd>

#include "text/tokenizer.h"

namespace runner {

// Reads one text a line and writes its ids as one JSON list a line: what the reference library's
// encode gives with add_special_tokens=False, special tokens in the text recognised as it does.
// A line ends with "\n", which is not part of the text. Throws Error when `out` cannot be written.
void tokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::FILE* out);

}  // namespace runner
