#pragma once

#include <cstdint>
#include <string>

#include "runner/tokenizer.h"

namespace runner {

// The text that `id` completes. Vocabularies are padded: an id without a piece has no text.
inline std::string next_text(StreamDecoder& decoder, const Tokenizer& tokenizer, int32_t id) {
  return id < tokenizer.n_pieces() ? decoder.push(id) : "";
}

}  // namespace runner
