#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace runner {

// Texts by their bytes, for all that begin at a place of another text: a tree whose edges lie in one hash table.
class PieceTrie {
 public:
  static constexpr uint32_t kRoot = 0;

  // `n_bytes` is the sum of the lengths of all texts that will be added, or more.
  explicit PieceTrie(size_t n_bytes);

  // A text that was added before keeps its id.
  void add(std::string_view text, int32_t id);

  // The node behind `node` by a byte; kRoot where no text goes on so.
  uint32_t next(uint32_t node, char byte) const;
  // The id of the text that ends in `node`; -1: none.
  int32_t id(uint32_t node) const { return ids_[node]; }

 private:
  struct Edge {
    uint64_t key = 0;  // node and byte, and one more
    uint32_t node = kRoot;
  };

  size_t slot(uint64_t key) const;

  std::vector<Edge> edges_;
  std::vector<int32_t> ids_{-1};
};

}  // namespace runner
