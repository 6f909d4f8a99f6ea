#pragma once

#include <memory>
#include <string_view>
#include <vector>

namespace runner {

// One regular expression that cuts texts into its matches and what lies between them. Const and
// safe to share after construction.
class SplitPattern {
 public:
  explicit SplitPattern(std::string_view pattern);  // throws Error when it does not compile
  ~SplitPattern();
  SplitPattern(SplitPattern&&) noexcept;

  // The non-empty parts of all `texts`, in order. Texts are valid UTF-8 and are cut on their own.
  std::vector<std::string_view> split(const std::vector<std::string_view>& texts) const;

  // Whether `text`, valid UTF-8, begins with a match.
  bool begins(std::string_view text) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace runner
