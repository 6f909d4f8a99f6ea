#include "text/nearest.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace runner {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

// Optimal string alignment: Levenshtein's distance where swapping two neighbours is one step.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before, last(b.size() + 1), row(b.size() + 1);  // of a's first i - 2, i - 1, i
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before = std::exchange(last, row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t changed = a[i - 1] == b[j - 1] ? 0 : 1;
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + changed});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
  }
  return row[b.size()];
}

// Letters and digits: what tells names apart, where '-' and '/' do not.
size_t letters(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }));
}

}  // namespace

std::string nearest_name(std::string_view word, const std::vector<std::string>& names) {
  const std::string given = lower(word);
  const size_t known = letters(given);
  if (known < 2) return "";
  const size_t allowed = std::clamp<size_t>(known / 3, 1, 3);
  std::string best;
  size_t least = allowed + 1;
  for (const std::string& name : names) {
    const std::string candidate = lower(name);
    if (known > 2 && candidate.starts_with(given)) return name;
    if (const size_t steps = distance(given, candidate); steps < least) {
      least = steps;
      best = name;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& names) {
  const std::string name = nearest_name(word, names);
  return name.empty() ? "" : "did you mean " + name + "?";
}

}  // namespace runner
