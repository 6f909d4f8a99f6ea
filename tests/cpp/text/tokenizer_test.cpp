#include "text/tokenizer.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "system/error.h"
#include "tests/cpp/check.h"
#include "text/tokenizer_raw.h"
#include "text/tokenizer_table.h"
#include "text/utf8.h"

using namespace runner;

namespace {

using Ids = std::vector<int32_t>;

constexpr auto kParse = Tokenizer::Special::parse;
constexpr auto kPlain = Tokenizer::Special::plain;

void add_piece(TableSource& table, std::string text, PieceType type = PieceType::normal) {
  table.pieces.push_back(std::move(text));
  table.types.push_back(type);
}

// The 256 bytes, "ab" 256, "abc" 257, and <end> 258, which takes white space after it.
TableSource byte_table() {
  TableSource table;
  table.flags = kByteUnits;
  for (int byte = 0; byte < 256; ++byte) add_piece(table, {static_cast<char>(byte)});
  add_piece(table, "ab");
  add_piece(table, "abc");
  table.merges = {{'a', 'b', 256}, {256, 'c', 257}};
  add_piece(table, "<end>", PieceType::control);
  table.added = {{258, kInText | kRstrip, "<end>"}};
  table.splits = {std::string(kGpt2Pattern)};
  table.eos_id = 258;
  return table;
}

// SentencePiece's way: <unk> 0, </s> 1, bytes 2 to 257, then words; spaces are marks.
TableSource char_table() {
  TableSource table;
  table.flags = kMergeByScore | kByteFallback | kFuseUnk | kPrefixSpace | kEscapeSpaces |
                kStripDecodedSpace;
  add_piece(table, " ? ", PieceType::unknown);
  add_piece(table, "</s>", PieceType::control);
  for (int byte = 0; byte < 256; ++byte) {
    add_piece(table, {static_cast<char>(byte)}, PieceType::byte);
  }
  const std::string mark(kSpaceMark);
  for (const std::string& text : {mark, mark + "a", mark + "ab", std::string("a"),
                                  std::string("b")}) {
    add_piece(table, text);
  }
  table.scores.assign(table.pieces.size(), 0.0f);
  table.scores[259] = -1.0f;
  table.scores[260] = -2.0f;
  table.added = {{1, 0, "</s>"}};
  table.unk_id = 0;
  return table;
}

// The byte table with a little of normal form C: what becomes U+1E69, and its marks' classes.
std::string composing_table() {
  TableSource table = byte_table();
  table.flags |= kNfc;
  table.normal_form = {.decompositions = {{0x1E63, 's', 0x323}, {0x1E69, 0x1E63, 0x307}, {0x212B, 0xC5, 0}},
                       .compositions = {{'s', 0x323, 0x1E63}, {0x1E63, 0x307, 0x1E69}},
                       .classes = {{0x314, 0x300, 230}, {0x326, 0x323, 220}}};
  return serialize_table(table);
}

// A unigram model: <unk> 0, a 1, b 2, ab 3, abb 4, a mark 5; and what only tables of version 4 have.
TableSource unigram_table(uint32_t flags = 0) {
  TableSource table;
  table.flags = kUnigram | kFuseUnk | kReplacements | kSplitKinds | kPrefixTokens | flags;
  add_piece(table, "<unk>", PieceType::unknown);
  for (const char* text : {"a", "b", "ab", "abb"}) add_piece(table, text);
  add_piece(table, std::string(kSpaceMark));
  table.scores = {0, -1, -1, -2, -2.5, -3};
  table.replacements = {{false, "[cd]+", "b"}, {true, "x", ""}};
  table.splits = {"-"};
  table.split_kinds = {SplitKind::between};
  table.prefix = {5, 0};
  table.bos_id = 5;
  table.unk_id = 0;
  return table;
}

// The ids of a text's bytes.
Ids bytes_of(std::string_view text) {
  Ids ids;
  for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
  return ids;
}

// Parts of a text, and whether each is markup.
MarkedText marked(const std::vector<std::pair<std::string_view, bool>>& parts) {
  MarkedText text;
  for (const auto& [part, markup] : parts) text.append(to_valid_utf8(part), markup ? kMarkup : kContent);
  return text;
}

Tokenizer make(const TableSource& table) { return Tokenizer::from_table(serialize_table(table)); }

// Uses every part of a tokenizer; only Error may come out.
void exercise(const Tokenizer& tokenizer) {
  const std::string text =
      "abc <end> ab 12  \xC3\xA9\xE2\x96\x81\xF0\x9F\x98\x80</s> \xFF"
      "s\u0307\u0323\u1E69\u212B\uD55C\u0304";
  for (const auto special : {kParse, kPlain}) {
    tokenizer.decode(tokenizer.encode(text, true, special));
  }
  tokenizer.encode(marked({{"<end>", true}, {text, false}}).view());
}

std::string written(const std::string& name, const std::string& content) {
  const auto path = std::filesystem::temp_directory_path() / name;
  std::ofstream(path, std::ios::binary) << content;
  return path.string();
}

}  // namespace

TEST(merges_by_rank) {
  const Tokenizer tokenizer = make(byte_table());
  CHECK_EQ(tokenizer.encode("abcab", false, kParse), (Ids{257, 256}));
  CHECK_EQ(tokenizer.encode("a b", false, kParse), (Ids{'a', ' ', 'b'}));
  CHECK_EQ(tokenizer.encode("", false, kParse), Ids{});
}

TEST(special_tokens_only_where_asked) {
  const Tokenizer tokenizer = make(byte_table());
  CHECK_EQ(tokenizer.encode("<end>  a", false, kParse), (Ids{258, 'a'}));
  CHECK_EQ(tokenizer.encode("<end>", false, kPlain), (Ids{'<', 'e', 'n', 'd', '>'}));
  const MarkedText spans = marked({{"<end>", true}, {"<end>ab", false}, {"c<end>", true}});
  CHECK_EQ(tokenizer.encode(spans.view()), (Ids{258, '<', 'e', 'n', 'd', '>', 257, 258}));
  const MarkedText torn = marked({{"<en", true}, {"d>", false}});
  CHECK_EQ(tokenizer.encode(torn.view()), (Ids{'<', 'e', 'n', 'd', '>'}));
}

TEST(bos_comes_first_where_there_is_one) {
  TableSource table = byte_table();
  CHECK_EQ(make(table).encode("a", true, kParse), Ids{'a'});
  table.bos_id = 258;
  CHECK_EQ(make(table).encode("a", true, kParse), (Ids{258, 'a'}));
}

TEST(merges_by_score_with_byte_fallback) {
  const Tokenizer tokenizer = make(char_table());
  CHECK_EQ(tokenizer.encode("ab a", false, kParse), (Ids{260, 259}));
  CHECK_EQ(tokenizer.encode("b\xC3\xA9", false, kParse), (Ids{258, 262, 2 + 0xC3, 2 + 0xA9}));
  CHECK_EQ(tokenizer.encode("</s>", false, kPlain).size(), size_t{5});
  CHECK_EQ(tokenizer.encode("</s>", false, kParse), Ids{1});
  CHECK_EQ(tokenizer.encode(marked({{"</s>", true}}).view()), Ids{1});
  CHECK_EQ(tokenizer.decode(Ids{260, 259, 1, 2 + 0xC3, 2 + 0xA9, 0}), "ab a\xC3\xA9 ? ");
}

TEST(unknown_characters_are_fused) {
  TableSource table = char_table();
  table.flags &= ~kByteFallback;
  CHECK_EQ(make(table).encode("a\xC3\xA9\xC3\xA8", false, kParse), (Ids{259, 0}));
}

TEST(text_comes_into_normal_form_c) {
  const Tokenizer tokenizer = Tokenizer::from_table(composing_table());
  for (const auto& [text, composed] :
       {std::pair{"s\u0307\u0323", "\u1E69"}, {"s\u0323\u0307", "\u1E69"},
        {"\u1E69", "\u1E69"},
        {"\u1E63\u0301\u0307", "\u1E63\u0301\u0307"},  // the first mark of a class blocks the next
        {"\u0307s", "\u0307s"}, {"s\u0307\u0304\u0323\u0326", "\u1E69\u0326\u0304"},
        {"\u1112\u1161\u11AB", "\uD55C"}, {"\uD558\u11AB", "\uD55C"},
        {"\uD55C\u11AB", "\uD55C\u11AB"}, {"\u212B", "\u00C5"}, {"", ""}, {"ab", "ab"}}) {
    const Ids ids = std::string_view(composed) == "ab" ? Ids{256} : bytes_of(composed);
    CHECK_EQ(tokenizer.encode(text, false, kParse), ids);
  }
  // Each segment is composed on its own.
  CHECK_EQ(tokenizer.encode("s<end>\u0323", false, kParse), (Ids{'s', 258, 0xCC, 0xA3}));
  const MarkedText spans = marked({{"s", true}, {"\u0323<end>", false}, {"\u0307<end>", true}});
  CHECK_EQ(tokenizer.encode(spans.view()),
           (Ids{0xE1, 0xB9, 0xA3, '<', 'e', 'n', 'd', '>', 0xCC, 0x87, 258}));
}

TEST(damaged_normal_forms_end) {
  std::string bytes = composing_table();
  const size_t at = bytes.find(std::string("\x63\x1E\0\0s", 5));
  bytes.replace(at + 4, 2, "\x63\x1E");  // a character that becomes itself and more, for ever
  const Tokenizer tokenizer = Tokenizer::from_table(bytes);
  CHECK_EQ(tokenizer.encode("\u1E63", false, kParse).size(), size_t{3 + 8 * 2});  // eight times
  bytes.replace(at + 4, 2, std::string("\x00\xD8", 2));
  CHECK_THROWS(Error, Tokenizer::from_table(bytes), "no character");
  for (const char number : {'\0', '\xFF'}) {
    bytes = composing_table();
    bytes[bytes.find('\xE6')] = number;  // of class 230
    CHECK_THROWS(Error, Tokenizer::from_table(bytes), "combining class");
  }
}

TEST(ill_formed_text_reads_as_replacement_characters) {
  const Tokenizer tokenizer = make(byte_table());
  for (const auto& [text, same_as] :
       {std::pair{"\xFF", "\xEF\xBF\xBD"}, {"a\xE2\x96", "a\xEF\xBF\xBD"},
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF0\x9F\x98x", "\xEF\xBF\xBDx"}, {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"}}) {
    CHECK_EQ(tokenizer.encode(text, false, kParse), tokenizer.encode(same_as, false, kParse));
    CHECK_EQ(tokenizer.decode(bytes_of(text)), same_as);
  }
}

TEST(stream_gives_whole_characters) {
  const Tokenizer tokenizer = make(byte_table());
  StreamDecoder decoder(tokenizer);
  CHECK_EQ(decoder.push('a'), "a");
  for (const int32_t byte : {0xF0, 0x9F, 0x98}) CHECK_EQ(decoder.push(byte), "");
  CHECK_EQ(decoder.push(258), "");
  CHECK_EQ(decoder.push(0x80), "\xF0\x9F\x98\x80");
  CHECK_EQ(decoder.push(0xC3), "");
  CHECK_EQ(decoder.push('b'), "\xEF\xBF\xBD" "b");
  CHECK_EQ(decoder.push(0xE2), "");
  CHECK_EQ(decoder.finish(), "\xEF\xBF\xBD");
  CHECK_EQ(decoder.finish(), "");
  CHECK_THROWS(Error, decoder.push(259), "259", "259 pieces");
  CHECK_THROWS(Error, decoder.push(-1), "-1");
}

TEST(stream_drops_the_first_space_once) {
  const Tokenizer tokenizer = make(char_table());
  StreamDecoder decoder(tokenizer);
  CHECK_EQ(decoder.push(1), "");
  CHECK_EQ(decoder.push(258), "");
  CHECK_EQ(decoder.push(259), " a");
}

TEST(cuts_with_the_highest_sum) {
  for (const uint32_t flags : {0u, uint32_t{kMergeByScore}}) {
    const Tokenizer tokenizer = make(unigram_table(flags));
    CHECK_EQ(tokenizer.encode("abba", false, kParse), (Ids{4, 1}));
    // a, b has the same sum as ab, and its last piece begins later.
    CHECK_EQ(tokenizer.encode("ab", false, kParse), (Ids{3}));
    CHECK_EQ(tokenizer.encode("a\u00E9\u00E8zb", false, kParse), (Ids{1, 0, 2}));
    CHECK_EQ(tokenizer.encode("a-b-", false, kParse), (Ids{1, 2}));
    CHECK_EQ(tokenizer.encode("axcddcb", false, kParse), (Ids{4}));
    CHECK_EQ(tokenizer.encode("b", true, kParse), (Ids{5, 0, 2}));
    CHECK_EQ(tokenizer.encode("", false, kParse), Ids{});
  }
}

// Where a sum of float32 passes 100,000 SentencePiece counts anew, and small differences count again.
TEST(long_unigram_texts_keep_their_cut) {
  TableSource table = unigram_table(kMergeByScore);
  table.scores = {0, -1000.25, -1, -1000.5, -1e5, -1e5};
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "ab";
  const Ids ids = make(table).encode(text, false, kParse);
  CHECK_EQ(ids, Ids(5000, 3));
}

TEST(a_unigram_model_has_an_unknown_piece_and_finite_scores) {
  TableSource table = unigram_table();
  table.unk_id = -1;
  CHECK_THROWS(Error, make(table), "unknown piece");
  table = unigram_table();
  table.scores[2] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS(Error, make(table), "score");
  table = unigram_table();
  table.prefix = {6};
  CHECK_THROWS(Error, make(table), "before a text");
  table = unigram_table();
  table.replacements[0].content = "\xFF";
  CHECK_THROWS(Error, make(table), "UTF-8");
}

TEST(what_takes_the_place_of_content_is_content) {
  TableSource table = unigram_table();
  add_piece(table, "bb", PieceType::control);
  table.scores.push_back(-1);
  table.added = {{6, kInText | kNormalized, "bb"}};
  const Tokenizer tokenizer = make(table);
  CHECK_EQ(tokenizer.encode(marked({{"bc", true}}).view()), (Ids{6}));
  CHECK_EQ(tokenizer.encode(marked({{"bc", true}, {"c", false}}).view()), (Ids{2, 2}));
}

TEST(every_truncation_is_an_error) {
  for (const std::string& bytes :
       {serialize_table(byte_table()), serialize_table(char_table()), composing_table(),
        serialize_table(unigram_table()), serialize_table(unigram_table(kMergeByScore))}) {
    for (size_t size = 0; size < bytes.size(); ++size) {
      CHECK_THROWS(Error, Tokenizer::from_table(bytes.substr(0, size)), "tokenizer table");
    }
    CHECK_THROWS(Error, Tokenizer::from_table(bytes + "x"), "tokenizer table");
    exercise(Tokenizer::from_table(bytes));
  }
}

TEST(flipped_bytes_do_no_harm) {
  std::mt19937 random(1);
  for (const std::string& bytes :
       {serialize_table(byte_table()), serialize_table(char_table()), composing_table(),
        serialize_table(unigram_table()), serialize_table(unigram_table(kMergeByScore))}) {
    for (int round = 0; round < 20000; ++round) {
      std::string damaged = bytes;
      // Half of the damage goes to the header and what follows the lengths and types of pieces.
      const bool anywhere = round % 2;
      for (int n = 1 + round % 3; n > 0; --n) {
        const size_t at = anywhere ? random() % bytes.size()
                          : round % 4 ? random() % 48
                                      : bytes.size() - 1 - random() % std::min<size_t>(400, bytes.size());
        damaged[at] = static_cast<char>(random());
      }
      try {
        exercise(Tokenizer::from_table(damaged));
      } catch (const Error&) {
        continue;  // what is said of damaged tables
      }
    }
  }
}

TEST(newer_table_names_both_versions) {
  std::string bytes = serialize_table(byte_table());
  bytes[8] = 5;
  CHECK_THROWS(Error, Tokenizer::from_table(bytes), "version 5", "versions 1 to 4");
  bytes[8] = 0;
  CHECK_THROWS(Error, Tokenizer::from_table(bytes), "version 0");
}

TEST(first_version_is_still_read) {
  for (TableSource table : {byte_table(), char_table()}) {
    std::string bytes = serialize_table(table);
    bytes[8] = 1;
    const Tokenizer old = Tokenizer::from_table(bytes);
    CHECK_EQ(old.encode("ab a<end></s>", false, kParse),
             make(table).encode("ab a<end></s>", false, kParse));
  }
}

TEST(raw_files_that_are_none) {
  CHECK_THROWS(Error, Tokenizer::from_file("/no/such/tokenizer.model"), "/no/such", "check");
  CHECK_THROWS(Error, Tokenizer::from_file("/"), "folder");
  const std::string contents[] = {
      "", "hello", "{", R"({"model": 3})", R"({"model": {"type": "Unigram"}})", "IQ== 0\nIQ== 7\n",
      "IQ== 0\n", std::string("\x0A\x05\x0A\x03", 4), std::string(3000, '\xFF'), "{}", "[1]"};
  for (const std::string& content : contents) {
    const std::string path = written("runner_test.tokenizer", content);
    CHECK_THROWS(Error, Tokenizer::from_file(path), "runner_test.tokenizer");
  }
}

TEST(a_megabyte_without_spaces_is_not_quadratic) {
  const auto start = std::chrono::steady_clock::now();
  const std::string text(1 << 20, 'a');
  CHECK_EQ(make(byte_table()).encode(text, false, kParse).size(), text.size());
  CHECK_EQ(make(char_table()).encode(text, false, kParse).size(), text.size());
  std::string marks = "s";
  while (marks.size() < text.size()) marks += "\u0307\u0323";
  CHECK_EQ(Tokenizer::from_table(composing_table()).encode(marks, false, kParse).size(),
           marks.size() - 2);
  CHECK_EQ(make(unigram_table()).encode(text, false, kParse).size(), text.size());
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  CHECK(spent.count() < 30);  // quadratic would take hours
}

CHECK_MAIN()
