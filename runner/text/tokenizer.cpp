#include "text/tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "system/error.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/marked_text.h"
#include "text/normal_form.h"
#include "text/replacement.h"
#include "text/split_pattern.h"
#include "text/tokenizer_raw.h"
#include "text/tokenizer_table.h"
#include "text/unigram.h"
#include "text/utf8.h"

namespace runner {
namespace {

std::unique_ptr<const PieceModel> model_of(const TableView& table) {
  if (table.flags & kUnigram) return std::make_unique<Unigram>(table);
  return std::make_unique<Bpe>(table);
}

}  // namespace

struct Tokenizer::State {
  explicit State(std::string table_bytes)
      : bytes(std::move(table_bytes)), table(parse_table(bytes)), model(model_of(table)) {
    for (const TableView::Added& added : table.added) {
      const auto id = static_cast<int32_t>(added.id);
      const PieceType type = table.types[added.id];
      const bool special = type == PieceType::control || type == PieceType::unknown;
      AddedTokenFinder& finder = added.flags & kNormalized ? normalized
                                 : added.flags & kLate     ? late
                                                           : written;
      finder.add(added.text, id, added.flags, special);
      if (added.flags & kNormalized && table.flags & (kEscapeSpaces | kNfc | kReplacements) &&
          !(table.flags & kByteUnits)) {
        decoded[id] = added.text;
      }
    }
    for (AddedTokenFinder* finder : {&written, &late, &normalized}) finder->finish();
    for (size_t i = 0; i < table.splits.size(); ++i) {
      splits.emplace_back(table.splits[i], table.split_kinds.empty() ? SplitKind::all : table.split_kinds[i]);
    }
    for (const auto& [after, pattern, content] : table.replacements) {
      (after ? late_replacements : replacements).emplace_back(pattern, content);
    }
    prefix.assign(table.prefix.begin(), table.prefix.end());
    if (prefix.empty() && table.bos_id >= 0) prefix = {table.bos_id};
  }
  State(const State&) = delete;  // the table views the bytes

  std::vector<int32_t> encode(MarkedView marked) const;
  void encode_segment(MarkedView marked, bool first, std::vector<int32_t>& ids) const;
  void encode_plain(std::string_view text, bool first, std::vector<int32_t>& ids) const;

  std::string bytes;
  TableView table;
  std::unique_ptr<const PieceModel> model;
  AddedTokenFinder written;     // those found in the text as written
  AddedTokenFinder late;        // those found in what the first leave of it
  AddedTokenFinder normalized;  // those found in the normalized text
  std::unordered_map<int32_t, std::string_view> decoded;  // pieces that are decoded as other text
  std::vector<Replacement> replacements, late_replacements;  // before and after normal form C
  std::vector<SplitPattern> splits;
  std::vector<int32_t> prefix;  // what begins a text with bos
};

std::vector<int32_t> Tokenizer::State::encode(MarkedView marked) const {
  std::vector<int32_t> ids;
  for (const Segment& outer : written.split(marked)) {
    if (outer.id >= 0) {
      ids.push_back(outer.id);
      continue;
    }
    const MarkedView rest = marked.substr(outer.begin, outer.end - outer.begin);
    for (const Segment& inner : late.split(rest)) {
      if (inner.id >= 0) {
        ids.push_back(inner.id);
      } else {
        encode_segment(rest.substr(inner.begin, inner.end - inner.begin),
                       outer.begin + inner.begin == 0, ids);
      }
    }
  }
  return ids;
}

void Tokenizer::State::encode_segment(MarkedView marked, bool first,
                                      std::vector<int32_t>& ids) const {
  MarkedText changed;
  const auto change = [&](MarkedText text) {
    changed = std::move(text);
    marked = changed.view();
  };
  for (const Replacement& replacement : replacements) change(replacement.apply(marked));
  if (table.flags & kNfc) change(compose(marked, table.normal_form));
  for (const Replacement& replacement : late_replacements) change(replacement.apply(marked));
  const MarkedText seen = normalize(marked, table.flags, first);
  for (const Segment& segment : normalized.split(seen.view())) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      encode_plain(std::string_view(seen.text).substr(segment.begin, segment.end - segment.begin),
                   first && segment.begin == 0, ids);
    }
  }
}

void Tokenizer::State::encode_plain(std::string_view text, bool first,
                                    std::vector<int32_t>& ids) const {
  std::string escaped;
  if (table.flags & kMetaspace) {
    const bool may_prefix = first || !(table.flags & kPrefixFirstOnly);
    escaped = metaspace(text, table.flags & kPrefixSpace && may_prefix);
    text = escaped;
  }
  std::vector<std::string_view> parts{text};
  for (const SplitPattern& pattern : splits) parts = pattern.split(parts);
  for (const std::string_view part : parts) model->encode(part, ids);
}

Tokenizer::Tokenizer(std::unique_ptr<const State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_table(std::string table) {
  return Tokenizer(std::make_unique<const State>(std::move(table)));
}

Tokenizer Tokenizer::from_file(const std::string& path) {
  return from_table(serialize_table(read_raw_file(path).table));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_bos, Special special) const {
  MarkedText marked;
  marked.append(to_valid_utf8(text), special == Special::parse ? kMarkup : kContent);
  std::vector<int32_t> ids = state_->encode(marked.view());
  if (add_bos) ids.insert(ids.begin(), state_->prefix.begin(), state_->prefix.end());
  return ids;
}

std::vector<int32_t> Tokenizer::encode(MarkedView text) const { return state_->encode(text); }

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  StreamDecoder decoder(*this);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

std::string Tokenizer::piece(int32_t id, bool& at_start) const {
  if (id < 0 || id >= n_pieces()) {
    throw Error("token id " + std::to_string(id) + " is outside the tokenizer's " +
                std::to_string(n_pieces()) +
                " pieces; use the tokenizer that belongs to the model");
  }
  const uint32_t flags = state_->table.flags;
  const PieceType type = state_->table.types[id];
  if (type == PieceType::control) return "";
  const auto decoded = state_->decoded.find(id);
  std::string_view rest =
      decoded == state_->decoded.end() ? state_->table.pieces[id] : decoded->second;
  // SentencePiece takes a mark away from the first piece, tokenizers any space.
  const bool takes_space = !(flags & kMergeByScore) || rest.starts_with(kSpaceMark);
  std::string text;
  if (flags & (kEscapeSpaces | kMetaspace) && type != PieceType::byte) {
    for (size_t mark; (mark = rest.find(kSpaceMark)) != rest.npos;) {
      text.append(rest.substr(0, mark)).push_back(' ');
      rest.remove_prefix(mark + kSpaceMark.size());
    }
  }
  text.append(rest);
  if (at_start && flags & kStripDecodedSpace && takes_space && type != PieceType::unknown &&
      text.starts_with(' ')) {
    text.erase(0, 1);
    at_start = flags & kCollapseSpaces;
  }
  at_start = at_start && text.empty();
  return text;
}

std::string_view Tokenizer::special_name(int32_t id) const {
  const bool special = state_->table.types.at(static_cast<size_t>(id)) == PieceType::control;
  return special ? std::string_view(state_->table.pieces[static_cast<size_t>(id)]) : "";
}

int32_t Tokenizer::n_pieces() const { return static_cast<int32_t>(state_->table.pieces.size()); }
int32_t Tokenizer::n_text_pieces() const {
  const auto is_text = [](PieceType type) {
    return type == PieceType::normal || type == PieceType::byte || type == PieceType::unknown;
  };
  const auto& types = state_->table.types;
  const auto last = std::find_if(types.rbegin(), types.rend(), is_text);
  return static_cast<int32_t>(types.rend() - last);
}
int32_t Tokenizer::bos_id() const { return state_->table.bos_id; }
int32_t Tokenizer::eos_id() const { return state_->table.eos_id; }
bool Tokenizer::add_bos() const { return state_->table.flags & kAddBos; }
bool Tokenizer::byte_level() const { return state_->table.flags & kByteUnits; }
std::string_view Tokenizer::table() const { return state_->bytes; }

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

std::string StreamDecoder::push(int32_t id) {
  pending_ += tokenizer_.piece(id, at_start_);
  return take(complete_utf8_prefix(pending_));
}

std::string StreamDecoder::finish() { return take(pending_.size()); }

std::string StreamDecoder::take(size_t size) {
  std::string text = to_valid_utf8(std::string_view(pending_).substr(0, size));
  pending_.erase(0, size);
  return text;
}

}  // namespace runner
