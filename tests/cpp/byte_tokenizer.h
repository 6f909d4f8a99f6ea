#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

// The last piece is beyond the model's vocabulary.
inline constexpr int32_t kUser = 256, kModel = 257, kEnd = 258;
inline constexpr int32_t kByteVocabulary = 259, kPieces = 260;

// A table (exporter/tokenizer/table.py) of the 256 bytes, three special tokens and one that is not special.
inline runner::Tokenizer byte_tokenizer() {
  const std::string names[] = {"<|user|>", "<|model|>", "<|end|>", "<rare>"};
  std::string bytes("TOKTABLE"), lengths, types, added, pool;
  const auto put = [](std::string& to, int32_t value) {
    to.append(reinterpret_cast<const char*>(&value), 4);
  };
  for (int i = 0; i < 256; ++i) {
    put(lengths, 1);
    types += '\1';
    pool += static_cast<char>(i);
  }
  for (int32_t id = kUser; id < kPieces; ++id) {
    const auto& name = names[id - kUser];
    put(lengths, static_cast<int32_t>(name.size()));
    types += id < kByteVocabulary ? '\3' : '\4';
    pool += name;
    put(added, id);
    put(added, 1);
    put(added, static_cast<int32_t>(name.size()));
  }
  for (const auto& name : names) pool += name;
  for (int32_t field : {1, 1, kPieces, 0, 4, 0, static_cast<int32_t>(pool.size()), -1, kEnd, -1}) {
    put(bytes, field);
  }
  return runner::Tokenizer::from_table(bytes + lengths + types + added + pool);
}
