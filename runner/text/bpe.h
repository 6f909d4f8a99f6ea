#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/piece_model.h"
#include "text/tokenizer_table.h"

namespace runner {

// Pieces by their bytes: open addressing over ids; of two equal pieces the lower id counts.
class PieceIndex {
 public:
  // Only normal pieces are indexed. `table` must outlive the index.
  explicit PieceIndex(const TableView& table);

  int32_t find(std::string_view text) const;  // -1: none

 private:
  const std::vector<std::string_view>* pieces_;
  std::vector<int32_t> slots_;
  size_t longest_ = 0;
};

// Byte pair encoding by a table.
class Bpe : public PieceModel {
 public:
  explicit Bpe(const TableView& table);  // which must outlive it

  // In O(n log n).
  void encode(std::string_view part, std::vector<int32_t>& ids) const override;

 private:
  struct Symbol {
    int32_t id;  // -1: not a piece
    uint32_t start, size;
    int32_t previous, next;
  };
  struct Candidate {
    double cost;  // rank, or minus the score
    uint32_t left, size;
    int32_t result;
    bool operator<(const Candidate& other) const {  // the top of a std heap is the largest
      return cost != other.cost ? cost > other.cost : left > other.left;
    }
  };
  struct PairSlot {
    uint32_t left, right;
    int32_t rank = -1;
  };

  void index_merges();
  std::vector<Symbol> make_symbols(std::string_view part) const;
  void merge(std::string_view part, std::vector<Symbol>& symbols) const;
  bool find_pair(std::string_view part, const std::vector<Symbol>& symbols, uint32_t left,
                 Candidate& found) const;
  bool has_byte_pieces(std::string_view text) const;
  void append_unknown(std::string_view text, bool fuse, std::vector<int32_t>& ids) const;

  const TableView& table_;
  PieceIndex index_;
  std::vector<PairSlot> pairs_;
  int32_t byte_ids_[256];  // of byte pieces, -1: none
};

}  // namespace runner
