#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace runner {

// What makes ids of a part of a text: byte pair encoding, or a unigram language model. Const and safe to
// share after construction.
class PieceModel {
 public:
  virtual ~PieceModel() = default;
  // Appends the ids of `part`, valid UTF-8.
  virtual void encode(std::string_view part, std::vector<int32_t>& ids) const = 0;
};

}  // namespace runner
