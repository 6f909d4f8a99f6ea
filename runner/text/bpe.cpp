#include "text/bpe.h"

#include <algorithm>
#include <bit>

#include "text/byte_name.h"
#include "text/utf8.h"

namespace runner {
namespace {

uint64_t mix(uint64_t value) {
  value *= 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
  return value ^ value >> 32;
}

uint64_t hash(std::string_view text) {
  uint64_t value = 0xCBF29CE484222325u;  // FNV-1a
  for (const char c : text) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  return mix(value);
}

}  // namespace

PieceIndex::PieceIndex(const TableView& table)
    : pieces_(&table.pieces), slots_(std::bit_ceil(table.pieces.size() * 2), -1) {
  const size_t mask = slots_.size() - 1;
  for (size_t id = 0; id < table.pieces.size(); ++id) {
    const std::string_view piece = table.pieces[id];
    if (table.types[id] != PieceType::normal || find(piece) >= 0) continue;
    longest_ = std::max(longest_, piece.size());
    size_t slot = hash(piece) & mask;
    while (slots_[slot] >= 0) slot = (slot + 1) & mask;
    slots_[slot] = static_cast<int32_t>(id);
  }
}

int32_t PieceIndex::find(std::string_view text) const {
  if (text.size() > longest_) return -1;
  const size_t mask = slots_.size() - 1;
  for (size_t slot = hash(text) & mask; slots_[slot] >= 0; slot = (slot + 1) & mask) {
    if ((*pieces_)[slots_[slot]] == text) return slots_[slot];
  }
  return -1;
}

Bpe::Bpe(const TableView& table) : table_(table), index_(table) {
  std::fill(std::begin(byte_ids_), std::end(byte_ids_), -1);
  for (size_t id = table.pieces.size(); id-- > 0;) {
    if (table.types[id] == PieceType::byte) {
      byte_ids_[static_cast<uint8_t>(table.pieces[id][0])] = static_cast<int32_t>(id);
    }
  }
  index_merges();
}

void Bpe::index_merges() {
  if (table_.flags & kMergeByScore) return;
  pairs_.resize(std::bit_ceil(table_.merges.size() * 2 + 1));
  const size_t mask = pairs_.size() - 1;
  for (size_t rank = 0; rank < table_.merges.size(); ++rank) {
    const auto& [left, right, result] = table_.merges[rank];
    size_t slot = mix(uint64_t{left} << 32 | right) & mask;
    while (pairs_[slot].rank >= 0 && (pairs_[slot].left != left || pairs_[slot].right != right)) {
      slot = (slot + 1) & mask;
    }
    pairs_[slot] = {left, right, static_cast<int32_t>(rank)};
  }
}

void Bpe::encode(std::string_view part, std::vector<int32_t>& ids) const {
  if (table_.flags & kIgnoreMerges) {
    int32_t whole = index_.find(part);
    if (const auto byte = named_byte(part); whole < 0 && byte) whole = byte_ids_[*byte];
    if (whole >= 0) {
      ids.push_back(whole);
      return;
    }
  }
  std::vector<Symbol> symbols = make_symbols(part);
  merge(part, symbols);
  bool unknown = false;
  for (int32_t i = symbols.empty() ? -1 : 0; i >= 0; i = symbols[i].next) {
    const Symbol& symbol = symbols[i];
    if (symbol.id >= 0) {
      ids.push_back(symbol.id);
    } else {
      append_unknown(part.substr(symbol.start, symbol.size), unknown, ids);
    }
    unknown = symbol.id < 0;
  }
}

std::vector<Bpe::Symbol> Bpe::make_symbols(std::string_view part) const {
  std::vector<Symbol> symbols;
  symbols.reserve(part.size());
  for (size_t start = 0, size = 0; start < part.size(); start += size) {
    size = table_.flags & kByteUnits ? 1 : utf8_length(part.substr(start));
    const std::string_view unit = part.substr(start, size);
    const int32_t id = index_.find(unit);
    // Merging by rank, what has no id at all is dropped, and its neighbours meet.
    if (id < 0 && !(table_.flags & kMergeByScore) && table_.unk_id < 0 && !has_byte_pieces(unit)) {
      continue;
    }
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back(
        {id, static_cast<uint32_t>(start), static_cast<uint32_t>(size), at - 1, at + 1});
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

void Bpe::merge(std::string_view part, std::vector<Symbol>& symbols) const {
  std::vector<Candidate> heap;
  Candidate found;
  for (uint32_t i = 0; i < symbols.size(); ++i) {
    if (find_pair(part, symbols, i, found)) heap.push_back(found);
  }
  std::make_heap(heap.begin(), heap.end());
  const auto push = [&](int32_t left) {
    if (left < 0 || !find_pair(part, symbols, static_cast<uint32_t>(left), found)) return;
    heap.push_back(found);
    std::push_heap(heap.begin(), heap.end());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    // Symbols only grow, so equal sizes mean that both are still as they were.
    Symbol& left = symbols[best.left];
    if (left.size == 0 || left.next < 0 || left.size + symbols[left.next].size != best.size) {
      continue;
    }
    Symbol& right = symbols[left.next];
    left.id = best.result;
    left.size = best.size;
    left.next = right.next;
    right.size = 0;
    if (left.next >= 0) symbols[left.next].previous = static_cast<int32_t>(best.left);
    push(left.previous);
    push(static_cast<int32_t>(best.left));
  }
}

bool Bpe::find_pair(std::string_view part, const std::vector<Symbol>& symbols, uint32_t at,
                    Candidate& found) const {
  const Symbol& left = symbols[at];
  if (left.next < 0) return false;
  const Symbol& right = symbols[left.next];
  const uint32_t size = left.size + right.size;
  if (table_.flags & kMergeByScore) {
    const int32_t id = index_.find(part.substr(left.start, size));
    if (id < 0) return false;
    found = {-table_.scores[id], at, size, id};
    return true;
  }
  const auto a = static_cast<uint32_t>(left.id), b = static_cast<uint32_t>(right.id);
  const size_t mask = pairs_.size() - 1;
  for (size_t slot = mix(uint64_t{a} << 32 | b) & mask; pairs_[slot].rank >= 0;
       slot = (slot + 1) & mask) {
    const PairSlot& pair = pairs_[slot];
    if (pair.left == a && pair.right == b) {
      const auto result = static_cast<int32_t>(table_.merges[pair.rank].c);
      found = {static_cast<double>(pair.rank), at, size, result};
      return true;
    }
  }
  return false;
}

bool Bpe::has_byte_pieces(std::string_view text) const {
  return table_.flags & kByteFallback && std::all_of(text.begin(), text.end(), [&](char c) {
           return byte_ids_[static_cast<uint8_t>(c)] >= 0;
         });
}

void Bpe::append_unknown(std::string_view text, bool fuse, std::vector<int32_t>& ids) const {
  if (has_byte_pieces(text)) {
    for (const char c : text) ids.push_back(byte_ids_[static_cast<uint8_t>(c)]);
  } else if (table_.unk_id >= 0) {
    const bool repeated = fuse && !ids.empty() && ids.back() == table_.unk_id;
    if (!repeated || !(table_.flags & kFuseUnk)) ids.push_back(table_.unk_id);
  }
}

}  // namespace runner
