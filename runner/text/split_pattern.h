#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "text/tokenizer_table.h"

namespace runner {

// One regular expression, which is looked for in texts. Const and safe to share after construction.
class SplitPattern {
 public:
  // Throws Error when it does not compile.
  explicit SplitPattern(std::string_view pattern, SplitKind kind = SplitKind::all);
  ~SplitPattern();
  SplitPattern(SplitPattern&&) noexcept;

  // The non-empty matches in `text`, valid UTF-8, from left to right. Throws Error where they take too long.
  std::vector<std::string_view> matches(std::string_view text) const;

  // The non-empty parts of all `texts`, in order: matches, what lies between them, or both, by the kind.
  // Texts are valid UTF-8 and are cut on their own.
  std::vector<std::string_view> split(const std::vector<std::string_view>& texts) const;

  // Whether the empty text can be a match.
  bool matches_nothing() const;

  // Whether `text`, valid UTF-8, begins with a match.
  bool begins(std::string_view text) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
  SplitKind kind_;
};

}  // namespace runner
