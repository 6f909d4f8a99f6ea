#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// The canonical tokenizer table. Its bytes are laid out, and its fields explained, in
// exporter/tokenizer/table.py; names here are the same.
namespace runner {

enum class PieceType : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };

enum TableFlag : uint32_t {
  kByteUnits = 1u << 0,
  kMergeByScore = 1u << 1,
  kIgnoreMerges = 1u << 2,
  kByteFallback = 1u << 3,
  kFuseUnk = 1u << 4,
  kPrefixSpace = 1u << 5,
  kEscapeSpaces = 1u << 6,
  kCollapseSpaces = 1u << 7,
  kMetaspace = 1u << 8,
  kPrefixFirstOnly = 1u << 9,
  kStripDecodedSpace = 1u << 10,
  kAddBos = 1u << 11,
  kPrefixUnlessSpace = 1u << 12,
  kNfc = 1u << 13,
  kUnigram = 1u << 14,
  kReplacements = 1u << 15,
  kSplitKinds = 1u << 16,
  kPrefixTokens = 1u << 17,
  kAllTableFlags = (1u << 18) - 1,
};

enum AddedFlag : uint32_t {
  kInText = 1u << 0,
  kLstrip = 1u << 1,
  kRstrip = 1u << 2,
  kNormalized = 1u << 3,
  kSingleWord = 1u << 4,
  kLate = 1u << 5,
  kAllAddedFlags = (1u << 6) - 1,
};

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// Which parts of a text a split pattern leaves: its matches and what lies between them, or one of both.
enum class SplitKind : uint8_t { all, matches, between };

struct Triple {
  uint32_t a, b, c;
};

// Code points, each list ascending by its first two numbers.
struct NormalForm {
  std::vector<Triple> decompositions;  // character, first, second or 0; first may go on
  std::vector<Triple> compositions;    // first, second, character
  std::vector<Triple> classes;         // the last character of a range, its first, their class
};
inline constexpr uint32_t kMaxCombiningClass = 254;

// Text is std::string where a table is made, std::string_view into its bytes where it is read.
template <class Text>
struct BasicTable {
  struct Added {
    uint32_t id;
    uint32_t flags;
    Text text;
  };
  struct Replacement {
    bool late;  // after normal form C
    Text pattern, content;
  };

  uint32_t flags = 0;
  std::vector<Text> pieces;
  std::vector<PieceType> types;
  std::vector<double> scores;  // with kMergeByScore (float32 in the bytes) or kUnigram, else empty
  std::vector<Triple> merges;  // left, right, result
  std::vector<Added> added;
  std::vector<Text> splits;
  std::vector<SplitKind> split_kinds;      // with kSplitKinds, else empty
  std::vector<Replacement> replacements;   // with kReplacements, else empty
  std::vector<uint32_t> prefix;            // with kPrefixTokens, else empty
  NormalForm normal_form;                  // with kNfc, else empty
  int32_t bos_id = -1;
  int32_t eos_id = -1;
  int32_t unk_id = -1;
};
using TableSource = BasicTable<std::string>;
using TableView = BasicTable<std::string_view>;

std::string serialize_table(const TableSource& table);

// Views into `bytes`. Throws Error where the bytes are not one whole and consistent table: no id in
// the result is out of range, every byte piece has one byte, added tokens are valid UTF-8.
TableView parse_table(std::string_view bytes);

}  // namespace runner
