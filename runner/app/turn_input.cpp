#include "app/turn_input.h"

namespace runner {
namespace {

constexpr std::string_view kBlank = " \t\r\n";
constexpr std::string_view kFence = "\"\"\"";

bool is_blank(std::string_view text) { return text.find_first_not_of(kBlank) == text.npos; }

std::string without_line_end(std::string line) {
  line.erase(line.find_last_not_of("\r\n") + 1);
  return line;
}

// Whether the line ends in one backslash, or in three: two are two.
bool continues(std::string_view line) {
  const size_t last = line.find_last_not_of('\\');
  return (line.size() - (last == line.npos ? 0 : last + 1)) % 2 == 1;
}

bool is_fence(std::string_view line) {
  return line.starts_with(kFence) && is_blank(line.substr(kFence.size()));
}

std::string rest_of_block(const ReadLine& read_line) {
  std::string text;
  while (auto line = read_line(true)) {
    const std::string added = without_line_end(std::move(*line));
    if (is_fence(added)) break;
    text += added + "\n";
  }
  if (!text.empty()) text.pop_back();
  return text;
}

std::string with_continuations(std::string text, const ReadLine& read_line) {
  while (continues(text)) {
    text.pop_back();
    auto line = read_line(true);
    if (!line) break;
    text += "\n" + without_line_end(std::move(*line));
  }
  return text;
}

}  // namespace

std::optional<TurnInput> read_turn(const ReadLine& read_line,
                                   const std::function<bool()>& interrupted) {
  while (auto line = read_line(false)) {
    std::string text = without_line_end(std::move(*line));
    if (is_fence(text)) {
      text = rest_of_block(read_line);
    } else if (text.starts_with('/') && !text.starts_with("//")) {
      return TurnInput{text, true};
    } else {
      if (text.starts_with("//")) text.erase(0, 1);
      text = with_continuations(std::move(text), read_line);
    }
    if (interrupted && interrupted()) return std::nullopt;
    if (!is_blank(text)) return TurnInput{text};
  }
  return std::nullopt;
}

const std::string_view kTurnHelp =
    R"(A line is a turn. One that ends in \ goes on in the next line; between two
lines of """ every line is the turn's as it stands. A first / makes a
command, // a turn that begins with one /.)";

}  // namespace runner
