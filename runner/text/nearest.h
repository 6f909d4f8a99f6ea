#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace runner {

// The one of `names` that `word` was probably meant to be: one that it begins, or else the nearest
// by letters left out, added, changed or swapped with their neighbour, at most one to three letters.
// "" when none is near or nothing was given. Case does not count.
std::string nearest_name(std::string_view word, const std::vector<std::string>& names);

// "did you mean NAME?" for the nearest of `names`, "" when none is near.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& names);

}  // namespace runner
