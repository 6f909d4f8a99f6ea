#include "text/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "text/byte_name.h"
#include "text/utf8.h"

namespace runner {
namespace {

constexpr double kUnknownPenalty = 10;    // below the lowest score; in both libraries
constexpr double kLargestFloatSum = 1e5;  // where SentencePiece begins to count anew

size_t bytes_of(const TableView& table) {
  size_t size = 0;
  for (size_t id = 0; id < table.pieces.size(); ++id) {
    if (table.types[id] == PieceType::normal) size += table.pieces[id].size();
    if (table.types[id] == PieceType::byte) size += kByteNameSize;
  }
  return size;
}

}  // namespace

Unigram::Unigram(const TableView& table)
    : table_(table), floats_(table.flags & kMergeByScore), trie_(bytes_of(table)) {
  std::fill(std::begin(byte_ids_), std::end(byte_ids_), -1);
  double lowest = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < table.pieces.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const PieceType type = table.types[i];
    if (type == PieceType::normal) {
      trie_.add(table.pieces[i], id);
    } else if (type == PieceType::byte) {
      const auto byte = static_cast<uint8_t>(table.pieces[i][0]);
      if (byte_ids_[byte] < 0) byte_ids_[byte] = id;
      // To tokenizers a byte's piece is also its name, which a text may hold.
      if (!floats_) trie_.add(name_of_byte(byte), id);
    }
    if (type == PieceType::normal || !floats_) lowest = std::min(lowest, table.scores[i]);
  }
  unknown_score_ = sum(lowest, -kUnknownPenalty);
}

void Unigram::encode(std::string_view part, std::vector<int32_t>& ids) const {
  const std::vector<Found> found = best_cut(part);
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].id != table_.unk_id) {
      ids.push_back(found[i].id);
      continue;
    }
    const uint32_t start = found[i].start;
    while (table_.flags & kFuseUnk && i + 1 < found.size() && found[i + 1].id == table_.unk_id) ++i;
    append_unknown(part.substr(start, found[i].start + found[i].size - start), ids);
  }
}

std::vector<Unigram::Found> Unigram::best_cut(std::string_view part) const {
  std::vector<Node> ends(part.size() + 1);
  const auto offer = [&](size_t start, size_t end, double score, int32_t id) {
    if (ends[end].start < 0 || score > ends[end].score) ends[end] = {score, id, static_cast<int32_t>(start)};
  };
  size_t furthest = 0;
  for (size_t start = 0, size; start < part.size(); start += size) {
    size = utf8_length(part.substr(start));
    if (floats_ && std::abs(ends[start].score) > kLargestFloatSum) {
      const double offset = ends[start].score;
      for (size_t i = start; i <= furthest; ++i) {
        if (i == start || ends[i].start >= 0) ends[i].score = sum(ends[i].score, -offset);
      }
    }
    bool has_character = false;
    uint32_t node = PieceTrie::kRoot;
    for (size_t end = start; end < part.size();) {
      node = trie_.next(node, part[end++]);
      if (node == PieceTrie::kRoot) break;
      const int32_t id = trie_.id(node);
      if (id < 0) continue;
      offer(start, end, sum(ends[start].score, table_.scores[static_cast<size_t>(id)]), id);
      furthest = std::max(furthest, end);
      has_character = has_character || end - start == size;
    }
    if (!has_character) {
      offer(start, start + size, sum(ends[start].score, unknown_score_), table_.unk_id);
      furthest = std::max(furthest, start + size);
    }
  }
  std::vector<Found> found;
  for (size_t end = part.size(); end > 0;) {
    const auto start = static_cast<size_t>(ends[end].start);
    found.push_back({static_cast<uint32_t>(start), static_cast<uint32_t>(end - start), ends[end].id});
    end = start;
  }
  std::reverse(found.begin(), found.end());
  return found;
}

void Unigram::append_unknown(std::string_view text, std::vector<int32_t>& ids) const {
  const auto id_of = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)]; };
  const auto is_piece = [&](char c) { return id_of(c) >= 0; };
  if (table_.flags & kByteFallback && std::all_of(text.begin(), text.end(), is_piece)) {
    for (const char c : text) ids.push_back(id_of(c));
  } else {
    ids.push_back(table_.unk_id);
  }
}

}  // namespace runner
