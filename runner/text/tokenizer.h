#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/marked_text.h"

namespace runner {

// One engine over the canonical table, whatever file a tokenizer came from. The steps from text to
// ids are written down in exporter/tokenizer/engine.py. Const and safe to share after construction.
//
// Texts are UTF-8. Every ill-formed part of one is read as U+FFFD, as the reference libraries'
// callers do, and ill-formed bytes that ids decode to are written as U+FFFD.
class Tokenizer {
 public:
  enum class Special {
    parse,  // all added tokens in the text are recognised as the reference library does
    plain,  // only those that are not special
  };

  // Throws Error when the bytes are not a whole and consistent table.
  static Tokenizer from_table(std::string table);
  // A raw tokenizer.json, tekken.json, or tokenizer.model of SentencePiece or tiktoken. Throws Error when the
  // file cannot be read or uses what the table does not express.
  static Tokenizer from_file(const std::string& path);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  // With `add_bos` the ids begin with bos, or the several tokens that the table has in its place.
  std::vector<int32_t> encode(std::string_view text, bool add_bos, Special special) const;
  // A text, valid UTF-8, of which only markup can become special tokens, as a chat template writes it.
  // Other added tokens lie anywhere. No bos is added.
  std::vector<int32_t> encode(MarkedView text) const;

  // The text without special tokens. Throws Error for an id that is not below n_pieces().
  std::string decode(std::span<const int32_t> ids) const;

  // The name of a special token, which is no part of a text; "" for others.
  std::string_view special_name(int32_t id) const;

  int32_t n_pieces() const;
  // One more than the largest id that text becomes where it holds no added token.
  int32_t n_text_pieces() const;
  int32_t bos_id() const;  // -1: none
  int32_t eos_id() const;  // -1: none
  bool add_bos() const;    // whether the reference begins a text with bos by default
  bool byte_level() const;
  std::string_view table() const;

 private:
  friend class StreamDecoder;
  struct State;
  // The bytes one id stands for, maybe part of a character; "" for special tokens. `at_start` says
  // that no text came before, so that the space put before a text is dropped; it is kept up.
  std::string piece(int32_t id, bool& at_start) const;
  explicit Tokenizer(std::unique_ptr<const State> state);
  std::unique_ptr<const State> state_;
};

// Turns ids into text as they come, holding back bytes until their character is whole.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer);  // which must outlive it

  // Throws Error for an id that is not below the tokenizer's n_pieces().
  std::string push(int32_t id);
  std::string finish();  // what was held back

 private:
  std::string take(size_t size);

  const Tokenizer& tokenizer_;
  std::string pending_;
  bool at_start_ = true;
};

}  // namespace runner
