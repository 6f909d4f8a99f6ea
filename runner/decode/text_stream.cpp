#include "decode/text_stream.h"

#include <algorithm>
#include <utility>

namespace runner {

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop_strings,
                       std::span<const int32_t> before, Start start)
    : tokenizer_(tokenizer),
      stops_(std::move(stop_strings)),
      shown_(tokenizer),
      matched_(tokenizer) {
  if (start == Start::inside) {
    for (const int32_t id : before) decode(shown_, id);
  }
  if (stops_.empty()) return;
  // Tokens may be single bytes: three more, so that what counts begins with a whole character.
  for (const int32_t id : before.last(std::min(before.size(), stops_.longest() + 4))) {
    stops_.precede(matched_text(id));
  }
}

std::string TextStream::push(int32_t id) {
  const std::string text = decode(shown_, id);
  if (stops_.empty()) return text;
  return stops_.push(matched_text(id), text.size());
}

std::string TextStream::finish() {
  if (stopped()) return "";
  const std::string held = stops_.finish();
  return held + shown_.finish();
}

std::string TextStream::decode(StreamDecoder& decoder, int32_t id) const {
  return id < tokenizer_.n_pieces() ? decoder.push(id) : "";
}

std::string TextStream::matched_text(int32_t id) {
  const std::string text = decode(matched_, id);
  return id < tokenizer_.n_pieces() ? text + std::string(tokenizer_.special_name(id)) : text;
}

}  // namespace runner
