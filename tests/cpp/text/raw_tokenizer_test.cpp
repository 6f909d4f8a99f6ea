// Damaged raw tokenizer files: whatever they hold, a tokenizer or an Error comes out.
#include "text/tokenizer_raw.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "system/error.h"
#include "tests/cpp/check.h"
#include "text/tokenizer.h"

using namespace runner;

namespace {

constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64_of_byte(int byte) { return {kAlphabet[byte >> 2], kAlphabet[(byte & 3) << 4], '=', '='}; }

std::string tekken_json() {
  std::string vocab;
  for (int byte = 0; byte < 256; ++byte) {
    vocab += (byte ? "," : "") + std::string(R"({"rank":)") + std::to_string(byte) + R"(,"token_bytes":")" +
             base64_of_byte(byte) + R"(","token_str":null})";
  }
  return R"({"config":{"pattern":"\\s?\\p{L}+|.","default_vocab_size":259,"default_num_special_tokens":3},)"
         R"("special_tokens":[{"rank":0,"token_str":"<unk>"},{"rank":1,"token_str":"<s>"}],"vocab":[)" +
         vocab + "]}";
}

std::string tokenizer_json(const std::string& model) {
  return R"({"added_tokens":[{"id":0,"content":"<unk>","special":true,"normalized":false,"lstrip":false,)"
         R"("rstrip":true,"single_word":false},{"id":5,"content":"né","special":false,"normalized":true,)"
         R"("lstrip":true,"rstrip":false,"single_word":true}],"normalizer":{"type":"Sequence","normalizers":)"
         R"([{"type":"Replace","pattern":{"Regex":"[xy]{2}|\\u00AD"},"content":"z"},{"type":"NFC"},)"
         R"({"type":"Strip","strip_left":false,"strip_right":true}]},"pre_tokenizer":{"type":"Sequence",)"
         R"("pretokenizers":[{"type":"Split","pattern":{"String":"-"},"behavior":"Removed","invert":false},)"
         R"({"type":"Split","pattern":{"Regex":"\\d+"},"behavior":"MergedWithNext","invert":true}]},)"
         R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<unk>"}},)"
         R"({"SpecialToken":{"id":"né"}},{"Sequence":{"id":"A"}}]},"decoder":{"type":"Fuse"},"model":)" +
         model + "}";
}

std::string unigram_json() {
  return tokenizer_json(R"({"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["<unk>",0.0],["a",-1.5],)"
                        R"(["ab",-2e0],["<0x41>",-9],["é",-3.25]]})");
}

std::string bpe_json() {
  return tokenizer_json(R"({"type":"BPE","unk_token":"<unk>","byte_fallback":true,"ignore_merges":true,"vocab":)"
                        R"({"<unk>":0,"a":1,"b":2,"ab":3,"<0x41>":4},"merges":["a b"]})");
}

// A field of protobuf that holds bytes.
std::string message(int number, const std::string& bytes) {
  std::string out{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())};
  return out + bytes;
}

std::string sentencepiece_model(char model_type) {
  const std::string score("\x15\x00\x00\xC0\xBF", 5);  // -1.5
  std::string out;
  out += message(1, message(1, "<unk>") + "\x18\x02");
  out += message(1, message(1, "<s>") + "\x18\x03");
  for (const char* text : {"a", "b", "ab", "\xE2\x96\x81", "\xC3\xA9"}) out += message(1, message(1, text) + score);
  out += message(1, message(1, "[x]") + "\x18\x04");
  out += message(2, std::string{'\x18', model_type});
  return out + message(3, std::string("\x18\x01\x20\x00", 4));
}

std::string tiktoken_model() {
  std::string out;
  for (int byte = 0; byte < 256; ++byte) out += base64_of_byte(byte) + " " + std::to_string(byte) + "\n";
  return out;
}

// The beginning and the end of a tekken.json.
std::string tekken(const std::string& sizes, const std::string& rest) {
  return R"({"config": {"pattern": ".", "version": "v3", )" + sizes + R"(}, "vocab": [)" + rest;
}

std::vector<std::string> files() {
  return {tekken_json(),          unigram_json(),         bpe_json(), sentencepiece_model(1),
          sentencepiece_model(2), tiktoken_model()};
}

// Whether the bytes are a tokenizer, which is then used.
bool works(const std::string& bytes) {
  try {
    const auto tokenizer = Tokenizer::from_table(serialize_table(read_raw_tokenizer(bytes, "").table));
    const std::string text = "ab \xC3\xA9" "aa-12xy-3 <unk> n\xC3\xA9 \xFF<0x41>[x]  ";
    for (const auto special : {Tokenizer::Special::parse, Tokenizer::Special::plain}) {
      tokenizer.decode(tokenizer.encode(text, true, special));
    }
    return true;
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return false;
  }
}

}  // namespace

TEST(whole_files_are_read) {
  const char* kinds[] = {"tekken", "huggingface", "huggingface", "sentencepiece", "sentencepiece", "tiktoken"};
  size_t i = 0;
  for (const std::string& bytes : files()) {
    CHECK_EQ(read_raw_tokenizer(bytes, "").kind, kinds[i++]);
    CHECK(works(bytes));
  }
}

TEST(truncated_files_are_errors) {
  for (const std::string& bytes : files()) {
    const bool json = bytes[0] == '{';
    const size_t step = bytes.size() > 3000 ? 13 : 1;
    for (size_t size = 0; size < bytes.size(); size += step) CHECK(!works(bytes.substr(0, size)) || !json);
  }
}

TEST(flipped_bytes_do_no_harm) {
  std::mt19937 random(5);
  for (const std::string& bytes : files()) {
    int n_working = 0;
    for (int round = 0; round < 3000; ++round) {
      std::string damaged = bytes;
      const size_t most = std::min<size_t>(bytes.size(), round % 2 ? bytes.size() : 900);
      for (int n = 1 + round % 4; n > 0; --n) damaged[random() % most] = static_cast<char>(random());
      n_working += works(damaged);
    }
    CHECK(n_working < 3000);
  }
}

TEST(what_comes_twice_or_loops_is_an_error) {
  CHECK(!works(tokenizer_json(R"({"type":"Unigram","unk_id":0,"vocab":[["a",-1],["a",-2]]})")));
  CHECK(!works(tokenizer_json(R"({"type":"Unigram","unk_id":0,"vocab":[["a",1e999]]})")));
  CHECK(!works(tokenizer_json(R"({"type":"Unigram","unk_id":0,"vocab":[["a",NaN]]})")));
  CHECK(!works(tokenizer_json(R"({"type":"Unigram","unk_id":-1,"vocab":[["a",-1]]})")));
  CHECK(!works(tokenizer_json(R"({"type":"BPE","vocab":{"a":4294967295},"merges":[]})")));
  std::string nested = unigram_json();
  for (int i = 0; i < 200; ++i) nested = R"({"type":"Sequence","normalizers":[)" + nested + "]}";
  CHECK(!works(nested));
  CHECK(!works(sentencepiece_model(1) + message(1, message(1, "ab"))));
}

TEST(tekken_files_that_are_none) {
  const std::string sizes = R"("default_vocab_size": 21, "default_num_special_tokens": 20)";
  const std::string one = R"({"rank": 0, "token_bytes": "AA=="}]})";
  const std::pair<std::string, std::string> contents[] = {
      {tekken(sizes, one), "single bytes"},
      {tekken(sizes, "]}"), "fewer tokens"},
      {tekken(sizes, R"({"rank": 1, "token_bytes": "AA=="}]})"), "token 0"},
      {tekken(sizes, R"({"rank": 0, "token_bytes": "AQ=="}]})"), "not that byte"},
      {tekken(sizes, R"({"rank": 0, "token_bytes": "A"}]})"), "base64"},
      {tekken(sizes, R"({"rank": 0}]})"), "token_bytes"},
      {tekken(R"("default_vocab_size": 4294967295, "default_num_special_tokens": 2)", one), "default_vocab_size"},
      {tekken(R"("default_vocab_size": 16000000, "default_num_special_tokens": 15999999)", one), "special tokens"},
      {tekken(R"("default_vocab_size": -1, "default_num_special_tokens": 2)", one), "default_vocab_size is -1"},
      {tekken(R"("default_vocab_size": 3, "default_num_special_tokens": 4)", one), "special tokens"},
      {tekken(sizes, R"(], "special_tokens": [{"rank": 1, "token_str": "<s>"}]})"), "rank"},
      {tekken(sizes, R"(], "special_tokens": [{"rank": 0, "token_str": "a"},
                                              {"rank": 1, "token_str": "a"}]})"), "twice"},
      {tekken(sizes + R"(, "version": "v11")", "]}"), "no special tokens"},
      {tekken(sizes, R"(], "special_tokens": 7})"), "damaged"}};
  for (const auto& [content, said] : contents) {
    CHECK_THROWS(Error, read_raw_tokenizer(content, ""), said);
  }
}

TEST(scores_of_a_raw_model_are_numbers) {
  // One piece, "a", whose score is infinite.
  const std::string model("\x0A\x08\x0A\x01" "a\x15\x00\x00\x80\x7F", 10);
  CHECK_THROWS(Error, read_raw_tokenizer(model, ""), "score is no number");
}

CHECK_MAIN()
