#include "text/piece_trie.h"

#include <bit>

namespace runner {
namespace {

uint64_t key_of(uint32_t node, char byte) { return (uint64_t{node} << 8 | static_cast<uint8_t>(byte)) + 1; }

}  // namespace

PieceTrie::PieceTrie(size_t n_bytes) : edges_(std::bit_ceil(n_bytes * 2 + 1)) {}

// Where the edge is, or would be.
size_t PieceTrie::slot(uint64_t key) const {
  const size_t mask = edges_.size() - 1;
  size_t at = key * 0x9E3779B97F4A7C15u >> 32 & mask;  // 2^64 / golden ratio
  while (edges_[at].key != key && edges_[at].key != 0) at = (at + 1) & mask;
  return at;
}

void PieceTrie::add(std::string_view text, int32_t id) {
  uint32_t node = kRoot;
  for (const char byte : text) {
    const uint64_t key = key_of(node, byte);
    Edge& edge = edges_[slot(key)];
    if (edge.key == 0) {
      edge = {key, static_cast<uint32_t>(ids_.size())};
      ids_.push_back(-1);
    }
    node = edge.node;
  }
  if (ids_[node] < 0) ids_[node] = id;
}

uint32_t PieceTrie::next(uint32_t node, char byte) const { return edges_[slot(key_of(node, byte))].node; }

}  // namespace runner
