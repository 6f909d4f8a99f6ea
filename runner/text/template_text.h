#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "text/template_value.h"

// What Python's strings do, with the marks of every byte kept. Texts are valid UTF-8; positions and
// lengths that a template sees are of characters.
namespace runner::templates {

int64_t length(std::string_view text);

// text[begin:end], by positions of characters.
MarkedView characters(MarkedView text, int64_t begin, int64_t end);

enum class Side { left, right, both };
// Without the characters of `drop` at its ends; without `drop`, Python's white space.
MarkedView stripped(MarkedView text, Side side, const Value& drop);

// Parts between separators; `most` cuts (-1: all), from the right where asked. Without a separator
// runs of white space cut. Throws Error for an empty separator.
std::vector<Value> split(MarkedView text, const Value& separator, int64_t most, bool from_right);
std::vector<Value> split_lines(MarkedView text, bool keep_ends);

MarkedText replaced(MarkedView text, MarkedView from, MarkedView to, int64_t most);

enum class Case { lower, upper, title, capital };
// Throws Error for letters beyond ASCII that have both cases.
MarkedText with_case(MarkedView text, Case wanted);

// Jinja's indent: every line but the first, and but those that are blank, begins with `margin`.
MarkedText indented(MarkedView text, std::string_view margin, bool first, bool blank);

// Python's str.format for "{}" alone. Throws Error for other fields.
MarkedText formatted(MarkedView text, const std::vector<Value>& values);

// Numbers as Jinja's filters int and float read them; none where Python raises ValueError.
std::optional<int64_t> parsed_integer(std::string_view text);
std::optional<double> parsed_real(std::string_view text);

}  // namespace runner::templates
