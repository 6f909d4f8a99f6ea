#include "decode/text_stream.h"

#include "tests/cpp/check.h"
#include "text/tokenizer_table.h"

using namespace runner;

namespace {

constexpr int32_t kEnd = 256, kHello = 257, kThere = 258;

// The 256 bytes, an end token and two words of SentencePiece's kind.
Tokenizer tokenizer() {
  TableSource table;
  table.flags = kByteFallback | kMergeByScore | kEscapeSpaces | kStripDecodedSpace;
  for (int i = 0; i < 256; ++i) {
    table.pieces.push_back(std::string(1, static_cast<char>(i)));
    table.types.push_back(PieceType::byte);
  }
  for (const char* text : {"<|end|>", "\xE2\x96\x81hello", "\xE2\x96\x81there"}) {
    table.types.push_back(*text == '<' ? PieceType::control : PieceType::normal);
    table.pieces.push_back(text);
  }
  table.scores.assign(table.pieces.size(), 0);
  return Tokenizer::from_table(serialize_table(table));
}

// What is shown after each token, with bars between, and at the end.
std::string shown(std::vector<std::string> stops, const std::vector<int32_t>& before,
                  TextStream::Start start, const std::vector<int32_t>& ids) {
  const Tokenizer words = tokenizer();
  TextStream stream(words, std::move(stops), before, start);
  std::string text;
  for (const int32_t id : ids) {
    text += stream.push(id) + "|";
    if (stream.stopped()) text += "stopped";
  }
  return text + stream.finish();
}

constexpr auto kInside = TextStream::Start::inside, kFresh = TextStream::Start::fresh;

}  // namespace

TEST(a_text_inside_another_keeps_its_first_space_and_a_fresh_one_does_not) {
  CHECK_EQ(shown({}, {'a'}, kInside, {kHello, kThere}), " hello| there|");
  CHECK_EQ(shown({}, {'a'}, kFresh, {kHello, kThere}), "hello| there|");
  CHECK_EQ(shown({"x"}, {'a'}, kFresh, {kHello, kThere}), "hello| there|");
}

TEST(a_space_that_is_not_shown_is_matched) {
  CHECK_EQ(shown({" hello t"}, {'a'}, kFresh, {kHello, kThere}), "||stopped");
  CHECK_EQ(shown({" hello x"}, {'a'}, kFresh, {kHello, kThere}), "|hello there|");
}

TEST(characters_are_whole_before_they_are_matched) {
  CHECK_EQ(shown({"\xC3\xA9"}, {'a'}, kInside, {'b', 0xC3, 0xA9}), "b|||stopped");
  CHECK_EQ(shown({"\xC3\xA9"}, {'a'}, kInside, {'b', 0xC3, 0xA8}), "b||\xC3\xA8|");
  CHECK_EQ(shown({"x"}, {'a'}, kInside, {'b', 0xC3}), "b||\xEF\xBF\xBD");
  CHECK_EQ(shown({"x"}, {'a'}, kInside, {0xC3, 'x'}), "|\xEF\xBF\xBD|stopped");
}

TEST(a_character_that_began_before_is_shown_whole) {
  const std::string smile = "\xF0\x9F\x98\x80";
  for (const char* stop : {"", "z"}) {
    CHECK_EQ(shown({stop}, {'a', 0xF0, 0x9F, 0x98}, kInside, {0x80, 'b'}), smile + "|b|");
  }
}

TEST(special_tokens_are_matched_by_their_names_and_not_shown) {
  CHECK_EQ(shown({"<|end|>"}, {}, kInside, {'a', kEnd}), "a||stopped");
  CHECK_EQ(shown({"<|end|>b"}, {'a', kEnd}, kFresh, {'b'}), "|stopped");
  CHECK_EQ(shown({}, {}, kInside, {'a', kEnd, 'b'}), "a||b|");
}

TEST(ids_without_a_piece_have_no_text) {
  CHECK_EQ(shown({"b"}, {300}, kInside, {'a', 300, 'b'}), "a|||stopped");
}

CHECK_MAIN()
