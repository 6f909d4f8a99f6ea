#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer_siblings.h"
#include "text/tokenizer_table.h"

// Raw tokenizer files to the canonical table: for runners, which are given one with -z, and for the exporter,
// which stores the table. Which format a file has is found from its content.
namespace runner {

struct RawTokenizer {
  std::string kind = {};  // huggingface, tekken, tiktoken or sentencepiece
  TableSource table = {};
  std::vector<AddedEntry> added = {};  // all added tokens with their ids, ascending
};

// The tokenizer of a file's bytes, with what the files beside the path `beside` add; "" for none. Throws Error,
// without the file's name, for what is damaged or not supported.
RawTokenizer read_raw_tokenizer(std::string_view data, const std::filesystem::path& beside);

// The same of a file. Throws Error with its name, also when it cannot be read.
RawTokenizer read_raw_file(const std::filesystem::path& path);

// Throw Error without the file's name.
RawTokenizer read_sentencepiece(std::string_view model, const Siblings& siblings);
RawTokenizer read_tiktoken(std::string_view data, const Siblings& siblings);

inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace runner
