#pragma once

#include <string>
#include <string_view>

#include "text/tokenizer_siblings.h"
#include "text/tokenizer_table.h"

// Raw tokenizer files to the canonical table, byte for byte as the exporter makes it. Which format
// a file has is found from its content. What is and is not supported is said in the exporter's
// tokenizer_*.py of the same format.
namespace runner {

// The table's bytes, with what the files beside it add (tokenizer_siblings.h). Throws Error when a
// file cannot be read or is not supported.
std::string table_from_raw_file(const std::string& path);

// Throw Error without the file's name.
TableSource table_from_sentencepiece(std::string_view model, const Siblings& siblings);
TableSource table_from_tiktoken(std::string_view data, const Siblings& siblings);
TableSource table_from_huggingface(std::string_view tokenizer_json, const Siblings& siblings);

inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace runner
