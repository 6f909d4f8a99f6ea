#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/piece_model.h"
#include "text/piece_trie.h"
#include "text/tokenizer_table.h"

namespace runner {

// The cut into pieces with the highest sum of scores. Of equal sums the one counts whose last piece begins first,
// as in both libraries. Sources: sentencepiece/src/unigram_model.cc, EncodeOptimized, which sums float32;
// tokenizers/src/models/unigram/model.rs, encode_optimized, which sums float64.
class Unigram : public PieceModel {
 public:
  explicit Unigram(const TableView& table);  // which must outlive it

  // In O(n), times the bytes of the longest piece that begins somewhere.
  void encode(std::string_view part, std::vector<int32_t>& ids) const override;

 private:
  struct Node {
    double score = 0;
    int32_t id = -1;
    int32_t start = -1;  // of the last piece of the best cut that ends here; -1: none does
  };
  struct Found {
    uint32_t start, size;
    int32_t id;
  };

  std::vector<Found> best_cut(std::string_view part) const;
  void append_unknown(std::string_view text, std::vector<int32_t>& ids) const;
  double sum(double a, double b) const { return floats_ ? static_cast<float>(a + b) : a + b; }

  const TableView& table_;
  bool floats_;  // SentencePiece's sums
  PieceTrie trie_;
  double unknown_score_;
  int32_t byte_ids_[256];  // of byte pieces, -1: none
};

}  // namespace runner
