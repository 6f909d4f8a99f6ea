// SentencePiece models, BPE and unigram. Control tokens, and what the files beside the model add, are added tokens
// as transformers makes them of such a folder. Sources: sentencepiece/src/sentencepiece_model.proto (whose numbers
// of fields are here), model_interface.cc, bpe_model.cc, unigram_model.cc; transformers 5.23,
// convert_slow_tokenizer.py (SentencePieceExtractor) and models/llama/tokenization_llama.py.
#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <optional>
#include <variant>

#include "system/error.h"
#include "text/byte_name.h"
#include "text/tokenizer_raw.h"
#include "text/utf8.h"

namespace runner {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw Error("not a SentencePiece model, or a damaged one: " + what);
}

using Value = std::variant<uint64_t, std::string_view>;

// Reads a message's fields one by one. Source: protobuf.dev/programming-guides/encoding.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}

  bool next(uint64_t& number, Value& value) {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    number = key >> 3;
    const unsigned wire = key & 7;
    if (wire == 0) {
      value = varint();
      return true;
    }
    if (wire != 1 && wire != 2 && wire != 5) fail("a field of an unknown wire type");
    const uint64_t size = wire == 2 ? varint() : wire == 1 ? 8 : 4;
    if (number == 0 || size > rest_.size()) fail("a field is cut off");
    value = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(rest_[0]);
      rest_.remove_prefix(1);
      if (shift < 64) value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number is cut off or too long");
  }

  std::string_view rest_;
};

using Message = std::map<uint64_t, Value>;

void read_message(std::string_view bytes, Message& message) {
  Fields fields(bytes);
  uint64_t number = 0;
  for (Value value; fields.next(number, value);) message[number] = value;
}

uint64_t number_of(const Message& message, uint64_t field, uint64_t otherwise) {
  const auto found = message.find(field);
  if (found == message.end()) return otherwise;
  const auto* value = std::get_if<uint64_t>(&found->second);
  return value ? *value : (fail("a field is malformed"), 0);
}

std::string_view text_of(const Message& message, uint64_t field, std::string_view otherwise) {
  const auto found = message.find(field);
  if (found == message.end()) return otherwise;
  const auto* value = std::get_if<std::string_view>(&found->second);
  return value ? *value : (fail("a field is malformed"), "");
}

float float_of(std::string_view bytes) {
  if (bytes.size() != 4) fail("a piece is malformed");
  uint32_t bits = 0;
  for (int i = 3; i >= 0; --i) bits = bits << 8 | static_cast<uint8_t>(bytes[i]);
  return std::bit_cast<float>(bits);
}

struct Piece {
  std::string text;
  PieceType type;
  float score;
};

Piece read_piece(std::string_view bytes) {
  Message message;
  read_message(bytes, message);
  const std::string_view text = text_of(message, 1, "");
  const uint64_t type = number_of(message, 3, 1);
  if (type < 1 || type > 6 || text.empty() || to_valid_utf8(text) != text) {
    fail("a piece is malformed");
  }
  const float score = float_of(text_of(message, 2, std::string_view("\0\0\0\0", 4)));
  if (!std::isfinite(score)) fail("a piece's score is no number");
  return {std::string(text), static_cast<PieceType>(type), score};
}

constexpr uint64_t kUnigramModel = 1, kBpeModel = 2;

uint32_t trainer_flags(const Message& trainer) {
  constexpr std::string_view kNames[] = {"unknown", "unigram", "BPE", "word", "char"};
  const uint64_t type = number_of(trainer, 3, 1);
  if (type != kUnigramModel && type != kBpeModel) {
    throw Error("SentencePiece model type " + std::string(kNames[type < 5 ? type : 0]) +
                " is not supported: unigram and BPE are");
  }
  if (number_of(trainer, 24, 0)) {
    throw Error("SentencePiece's treat_whitespace_as_suffix is not supported");
  }
  return (type == kUnigramModel ? uint32_t{kUnigram} : 0) |
         (number_of(trainer, 35, 0) ? uint32_t{kByteFallback} : 0);
}

uint32_t normalizer_flags(const Message& normalizer) {
  if (!text_of(normalizer, 2, "").empty()) {
    throw Error("SentencePiece normalizer '" + to_valid_utf8(text_of(normalizer, 1, "")) +
                "' is not supported: only identity is");
  }
  uint32_t flags = 0;
  if (number_of(normalizer, 3, 1)) flags |= kPrefixSpace | kStripDecodedSpace;
  if (number_of(normalizer, 4, 1)) flags |= kCollapseSpaces | kStripDecodedSpace;
  if (number_of(normalizer, 5, 1)) flags |= kEscapeSpaces;
  return flags;
}

std::string canonical(const Piece& piece, std::string_view unknown_surface) {
  if (piece.type == PieceType::unknown) return std::string(unknown_surface);
  if (piece.type != PieceType::byte) return piece.text;
  const auto byte = named_byte(piece.text);
  if (!byte) throw Error("a byte piece is not of the form <0xFF>");
  return {static_cast<char>(*byte)};
}

struct Model {
  std::vector<Piece> pieces;
  Message trainer, normalizer;
};

Model read_model(std::string_view bytes) {
  Model model;
  Fields fields(bytes);
  uint64_t number = 0;
  for (Value value; fields.next(number, value);) {
    if (number < 1 || number > 3) continue;
    const auto* part = std::get_if<std::string_view>(&value);
    if (!part) fail("a part is no message");
    if (number == 1) model.pieces.push_back(read_piece(*part));
    if (number == 2) read_message(*part, model.trainer);
    if (number == 3) read_message(*part, model.normalizer);
  }
  if (model.pieces.empty()) fail("it holds no pieces");
  return model;
}

// All added tokens: the model's, and the siblings'.
std::map<uint32_t, AddedEntry> added_tokens(const std::vector<Piece>& pieces,
                                            const Siblings& siblings) {
  AddedIds::Vocabulary ids;
  std::vector<AddedEntry> own;
  for (const Piece& piece : pieces) {
    const bool is_new = ids.emplace(piece.text, static_cast<uint32_t>(ids.size())).second;
    if (!is_new) throw Error("piece '" + piece.text + "' is there twice");
    const bool symbol = piece.type == PieceType::user_defined;
    if (!symbol && piece.type != PieceType::control && piece.type != PieceType::unknown) continue;
    own.push_back({.content = piece.text, .special = !symbol, .id = std::nullopt});
  }
  AddedIds added(ids, pieces.size());
  added.add(own);
  added.add(siblings.additions(own));
  return added.tokens();
}

// Whether SentencePiece itself finds the token: a user-defined symbol that nothing redefines.
bool is_symbol(const AddedEntry& token, const std::vector<Piece>& pieces) {
  return *token.id < pieces.size() && pieces[*token.id].type == PieceType::user_defined &&
         token.same_token({.content = token.content, .id = std::nullopt});
}

uint32_t added_flags(const AddedEntry& token, const std::vector<Piece>& pieces) {
  if (is_symbol(token, pieces)) return kInText | kNormalized;
  uint32_t flags = kInText;
  if (token.lstrip) flags |= kLstrip;
  if (token.rstrip) flags |= kRstrip;
  if (token.single_word) flags |= kSingleWord;
  if (token.normalized) flags |= kLate;
  return flags;
}

// What a unigram model gives a user-defined symbol.
double symbol_score(std::string_view text) {
  return static_cast<float>(0.1 * (static_cast<double>(text.size()) - 1));
}

void set_added(TableSource& table, const std::map<uint32_t, AddedEntry>& tokens,
               const std::vector<Piece>& pieces) {
  for (const auto& [id, token] : tokens) {
    if (table.flags & kUnigram && is_symbol(token, pieces)) {  // which is a piece like others, of a high score
      table.types[id] = PieceType::normal;
      table.scores[id] = symbol_score(token.content);
      continue;
    }
    if (id >= table.pieces.size()) {
      table.pieces.push_back(token.content);
      table.types.push_back(PieceType::user_defined);
      table.scores.push_back(0);
    }
    PieceType& type = table.types[id];
    if (token.special && type != PieceType::unknown) {
      type = PieceType::control;
    } else if (type == PieceType::control || type == PieceType::unused) {
      type = PieceType::user_defined;
    }
    table.added.push_back({id, added_flags(token, pieces), token.content});
  }
}

}  // namespace

RawTokenizer read_sentencepiece(std::string_view bytes, const Siblings& siblings) {
  Model model = read_model(bytes);
  if (siblings.add_prefix_space == false) model.normalizer[3] = uint64_t{0};
  const Message& trainer = model.trainer;
  RawTokenizer out{.kind = "sentencepiece"};
  TableSource& table = out.table;
  table.flags =
      kMergeByScore | kFuseUnk | trainer_flags(trainer) | normalizer_flags(model.normalizer);
  if (table.flags & kPrefixSpace) {
    table.flags |= siblings.legacy == true ? kPrefixUnlessSpace : kPrefixFirstOnly;
  }
  const std::string_view unknown_surface = text_of(trainer, 44, " \xE2\x81\x87 ");
  size_t n_unknown = 0;
  for (const Piece& piece : model.pieces) {
    if (piece.type == PieceType::unknown) {
      table.unk_id = static_cast<int32_t>(table.pieces.size());
      ++n_unknown;
    }
    table.pieces.push_back(canonical(piece, unknown_surface));
    table.types.push_back(piece.type);
    table.scores.push_back(piece.score);
  }
  if (n_unknown != 1) {
    throw Error("a SentencePiece model has one unknown piece; this one " +
                std::to_string(n_unknown));
  }
  const auto tokens = added_tokens(model.pieces, siblings);
  set_added(table, tokens, model.pieces);
  for (const auto& [id, token] : tokens) out.added.push_back(token);
  const auto named = [&](const std::string& name, uint64_t field, std::string_view otherwise) {
    const std::string_view wanted = name.empty() ? text_of(trainer, field, otherwise) : name;
    const auto found = std::find_if(tokens.begin(), tokens.end(), [&](const auto& token) {
      return token.second.content == wanted;
    });
    return found == tokens.end() ? -1 : static_cast<int32_t>(found->first);
  };
  table.bos_id = named(siblings.bos_token, 46, "<s>");
  table.eos_id = named(siblings.eos_token, 47, "</s>");
  if (table.bos_id >= 0 && siblings.add_bos_token != false) table.flags |= kAddBos;
  return out;
}

}  // namespace runner
