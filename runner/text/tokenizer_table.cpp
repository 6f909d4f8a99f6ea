#include "text/tokenizer_table.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "system/error.h"
#include "text/utf8.h"

namespace runner {
namespace {

constexpr std::string_view kMagic = "TOKTABLE";
constexpr uint32_t kVersion = 4;  // those before have fewer flags and are read as they are

// The lowest version that has what the flags say.
uint32_t version_of(uint32_t flags) {
  if (flags & (kUnigram | kReplacements | kSplitKinds | kPrefixTokens)) return 4;
  return flags & kNfc ? 3 : 2;
}

// SentencePiece's scores are float32, those of a tokenizer.json float64.
bool has_float_scores(uint32_t flags) { return flags & kMergeByScore; }
bool has_double_scores(uint32_t flags) { return flags & kUnigram && !has_float_scores(flags); }

template <class T>
void put(std::string& out, T value) {
  for (size_t shift = 0; shift < 8 * sizeof value; shift += 8) out.push_back(static_cast<char>(value >> shift));
}

void put_u32(std::string& out, uint32_t value) { put(out, value); }

void put_triples(std::string& out, const std::vector<Triple>& triples) {
  for (const auto& [a, b, c] : triples) {
    for (const uint32_t number : {a, b, c}) put_u32(out, number);
  }
}

[[noreturn]] void fail(const std::string& what) {
  throw Error("the tokenizer table is damaged: " + what + "; export the model again");
}

class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  std::string_view take(uint64_t size) {
    if (size > rest_.size()) fail("it is cut off");
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  template <class T>
  T number() {
    const std::string_view bytes = take(sizeof(T));
    T value = 0;
    for (size_t i = sizeof(T); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
    return value;
  }
  uint32_t u32() { return number<uint32_t>(); }
  // Fails early where `count` items of `size` bytes cannot follow, before memory is reserved.
  uint32_t count_of(uint32_t count, uint64_t size) const {
    if (count * size > rest_.size()) fail("it is cut off");
    return count;
  }
  std::vector<uint32_t> u32s(uint32_t count) {
    std::vector<uint32_t> values(count_of(count, 4));
    for (uint32_t& value : values) value = u32();
    return values;
  }
  std::vector<Triple> triples(uint32_t count) {
    std::vector<Triple> values(count_of(count, 12));
    for (Triple& value : values) value = {u32(), u32(), u32()};
    return values;
  }
  size_t left() const { return rest_.size(); }

 private:
  std::string_view rest_;
};

int32_t checked_id(uint32_t id, size_t n_pieces) {
  if (id != UINT32_MAX && id >= n_pieces) fail("a special id has no piece");
  return static_cast<int32_t>(id);
}

template <class Predicate>
bool all_numbers(const std::vector<Triple>& triples, Predicate valid) {
  return std::all_of(triples.begin(), triples.end(), [&](const Triple& triple) {
    return valid(triple.a) && valid(triple.b) && valid(triple.c);
  });
}

bool is_character(uint32_t code) { return code < 0xD800 || (code >= 0xE000 && code <= 0x10FFFF); }

NormalForm read_normal_form(Reader& reader) {
  const uint32_t n_decompositions = reader.u32(), n_compositions = reader.u32();
  const uint32_t n_classes = reader.u32();
  NormalForm form{reader.triples(n_decompositions), reader.triples(n_compositions),
                  reader.triples(n_classes)};
  for (const auto& list : {&form.decompositions, &form.compositions, &form.classes}) {
    if (!all_numbers(*list, is_character)) fail("a code point is no character");
  }
  for (const Triple& range : form.classes) {
    if (range.c < 1 || range.c > kMaxCombiningClass) fail("a combining class is none of 1 to 254");
  }
  return form;
}

void check(const TableView& table) {
  const size_t n_pieces = table.pieces.size();
  if (n_pieces == 0 || n_pieces > std::numeric_limits<int32_t>::max()) fail("it has no pieces");
  if (table.flags & ~kAllTableFlags) fail("it has unknown flags");
  for (size_t id = 0; id < n_pieces; ++id) {
    const PieceType type = table.types[id];
    if (type < PieceType::normal || type > PieceType::byte) fail("a piece has an unknown type");
    if (type == PieceType::byte && table.pieces[id].size() != 1) fail("a byte piece is no byte");
  }
  for (const double score : table.scores) {
    if (!std::isfinite(score)) fail("a score is no number");
  }
  if (table.flags & kUnigram && table.unk_id < 0) fail("it has no unknown piece");
  if (!all_numbers(table.merges, [&](uint32_t id) { return id < n_pieces; })) {
    fail("a merge has no piece");
  }
  for (const TableView::Added& added : table.added) {
    if (added.id >= n_pieces || added.text.empty() || added.flags & ~kAllAddedFlags) {
      fail("an added token is malformed");
    }
    // It is looked for in texts, which must not be cut within a character.
    if (to_valid_utf8(added.text) != added.text) fail("an added token is not UTF-8");
  }
  for (const SplitKind kind : table.split_kinds) {
    if (kind > SplitKind::between) fail("a split has an unknown kind");
  }
  for (const TableView::Replacement& replacement : table.replacements) {
    if (to_valid_utf8(replacement.content) != replacement.content) fail("a replacement is not UTF-8");
  }
  for (const uint32_t id : table.prefix) {
    if (id >= n_pieces) fail("a token before a text has no piece");
  }
}

std::vector<double> read_scores(Reader& reader, uint32_t flags, uint32_t n_pieces) {
  std::vector<double> scores;
  if (has_double_scores(flags)) {
    scores.resize(reader.count_of(n_pieces, 8));
    for (double& score : scores) score = std::bit_cast<double>(reader.number<uint64_t>());
  } else if (has_float_scores(flags)) {
    for (const uint32_t bits : reader.u32s(n_pieces)) scores.push_back(std::bit_cast<float>(bits));
  }
  return scores;
}

}  // namespace

std::string serialize_table(const TableSource& table) {
  std::string pool;
  for (const std::string& piece : table.pieces) pool += piece;
  for (const TableSource::Added& added : table.added) pool += added.text;
  for (const std::string& split : table.splits) pool += split;
  for (const auto& replacement : table.replacements) pool += replacement.pattern + replacement.content;

  std::string out(kMagic);
  put_u32(out, version_of(table.flags));
  put_u32(out, table.flags);
  for (const size_t n : {table.pieces.size(), table.merges.size(), table.added.size(),
                         table.splits.size(), pool.size()}) {
    put_u32(out, static_cast<uint32_t>(n));
  }
  for (const int32_t id : {table.bos_id, table.eos_id, table.unk_id}) {
    put_u32(out, static_cast<uint32_t>(id));
  }
  for (const std::string& piece : table.pieces) put_u32(out, static_cast<uint32_t>(piece.size()));
  for (const PieceType type : table.types) out.push_back(static_cast<char>(type));
  for (const double score : table.scores) {
    if (has_float_scores(table.flags)) {
      put_u32(out, std::bit_cast<uint32_t>(static_cast<float>(score)));
    } else {
      put(out, std::bit_cast<uint64_t>(score));
    }
  }
  put_triples(out, table.merges);
  for (const TableSource::Added& added : table.added) {
    put_u32(out, added.id);
    put_u32(out, added.flags);
    put_u32(out, static_cast<uint32_t>(added.text.size()));
  }
  for (const std::string& split : table.splits) put_u32(out, static_cast<uint32_t>(split.size()));
  for (const SplitKind kind : table.split_kinds) out.push_back(static_cast<char>(kind));
  if (table.flags & kNfc) {
    const NormalForm& form = table.normal_form;
    const auto lists = {&form.decompositions, &form.compositions, &form.classes};
    for (const auto* list : lists) put_u32(out, static_cast<uint32_t>(list->size()));
    for (const auto* list : lists) put_triples(out, *list);
  }
  if (table.flags & kReplacements) {
    put_u32(out, static_cast<uint32_t>(table.replacements.size()));
    for (const auto& [late, pattern, content] : table.replacements) {
      put_u32(out, late);
      put_u32(out, static_cast<uint32_t>(pattern.size()));
      put_u32(out, static_cast<uint32_t>(content.size()));
    }
  }
  if (table.flags & kPrefixTokens) {
    put_u32(out, static_cast<uint32_t>(table.prefix.size()));
    for (const uint32_t id : table.prefix) put_u32(out, id);
  }
  return out + pool;
}

TableView parse_table(std::string_view bytes) {
  Reader reader(bytes);
  if (reader.take(kMagic.size()) != kMagic) fail("it does not begin as one");
  if (const uint32_t version = reader.u32(); version < 1 || version > kVersion) {
    throw Error("the tokenizer table has version " + std::to_string(version) +
                ", this runner reads versions 1 to " + std::to_string(kVersion) +
                "; use the runner of the exporter's version");
  }
  TableView table;
  table.flags = reader.u32();
  const uint32_t n_pieces = reader.u32(), n_merges = reader.u32(), n_added = reader.u32();
  const uint32_t n_splits = reader.u32(), n_bytes = reader.u32();
  table.bos_id = checked_id(reader.u32(), n_pieces);
  table.eos_id = checked_id(reader.u32(), n_pieces);
  table.unk_id = checked_id(reader.u32(), n_pieces);

  const std::vector<uint32_t> piece_sizes = reader.u32s(n_pieces);
  for (const char type : reader.take(n_pieces)) table.types.push_back(static_cast<PieceType>(type));
  table.scores = read_scores(reader, table.flags, n_pieces);
  table.merges = reader.triples(n_merges);
  const std::vector<uint32_t> added = reader.u32s(reader.count_of(n_added, 12) * 3);
  const std::vector<uint32_t> split_sizes = reader.u32s(n_splits);
  if (table.flags & kSplitKinds) {
    for (const char kind : reader.take(n_splits)) table.split_kinds.push_back(static_cast<SplitKind>(kind));
  }
  if (table.flags & kNfc) table.normal_form = read_normal_form(reader);
  const std::vector<Triple> replacements =
      table.flags & kReplacements ? reader.triples(reader.u32()) : std::vector<Triple>();
  if (table.flags & kPrefixTokens) table.prefix = reader.u32s(reader.u32());
  if (reader.left() != n_bytes) fail("its length is wrong");

  table.pieces.reserve(n_pieces);
  for (const uint32_t size : piece_sizes) table.pieces.push_back(reader.take(size));
  for (uint32_t i = 0; i < n_added; ++i) {
    table.added.push_back({added[3 * i], added[3 * i + 1], reader.take(added[3 * i + 2])});
  }
  for (const uint32_t size : split_sizes) table.splits.push_back(reader.take(size));
  for (const auto& [late, pattern, content] : replacements) {
    const std::string_view text = reader.take(pattern);
    table.replacements.push_back({late != 0, text, reader.take(content)});
  }
  if (reader.left() != 0) fail("its length is wrong");
  check(table);
  return table;
}

}  // namespace runner
