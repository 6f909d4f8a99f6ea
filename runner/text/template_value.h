#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/marked_text.h"

// Values of a chat template, as Python and Jinja have them. Texts carry a mark for each byte
// (MarkedText): kContent came from messages, kMarkup was written by the template.
namespace runner::templates {

struct List;
struct Dict;
struct Space;
struct Macro;

struct Undefined {};
struct None {};
struct Method {};  // one that is not called: true and defined, and nothing else

using Text = std::shared_ptr<const MarkedText>;

class Value {
 public:
  Value() = default;  // undefined
  Value(None) : data_(None()) {}
  Value(bool value) : data_(value) {}
  template <std::signed_integral T>
  Value(T value) : data_(static_cast<int64_t>(value)) {}
  Value(double value) : data_(value) {}
  Value(Text value) : data_(std::move(value)) {}
  Value(MarkedText value) : data_(std::make_shared<const MarkedText>(std::move(value))) {}
  Value(std::shared_ptr<const List> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<const Dict> value) : data_(std::move(value)) {}
  Value(Space* value) : data_(value) {}
  Value(const Macro* value) : data_(value) {}
  Value(Method) : data_(Method()) {}
  Value(const void*) = delete;

  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_text() const { return is<Text>(); }
  bool is_list() const { return is<std::shared_ptr<const List>>(); }
  bool is_dict() const { return is<std::shared_ptr<const Dict>>(); }
  bool is_number() const { return is<bool>() || is<int64_t>() || is<double>(); }
  template <class T>
  bool is() const { return std::holds_alternative<T>(data_); }
  template <class T>
  const T* get() const { return std::get_if<T>(&data_); }

  // Only of a value of that kind.
  MarkedView text() const { return std::get<Text>(data_)->view(); }
  std::string_view bytes() const { return std::get<Text>(data_)->text; }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(data_); }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }

  // A whole number, which true and false are, too; none for others.
  std::optional<int64_t> integer() const;
  double real() const;  // of a number

 private:
  std::variant<Undefined, None, bool, int64_t, double, Text, std::shared_ptr<const List>,
               std::shared_ptr<const Dict>, Space*, const Macro*, Method>
      data_;
};

// How large a value is: to go through it takes `weight` steps, as parts that it holds twice count twice.
struct Extent {
  int depth = 0;  // of lists and dicts within each other
  uint64_t weight = 1;
};

// A list, a tuple, what dict.items() gives, or what filters such as map give: a generator, which can
// be gone through and is no sequence.
enum class Shape : uint8_t { list, tuple, view, once };

struct List {
  std::vector<Value> items;
  Shape shape = Shape::list;
  Extent extent;
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in the order in which they were put in
  Extent extent;

  const Value* find(const Value& key) const;  // a text or a number; null where there is none
  const Value* find(std::string_view key) const;
};

// Jinja's namespace(): its attributes can be set. The evaluation owns it.
struct Space {
  std::vector<std::pair<std::string, Value>> attributes;
};

Value text_value(std::string_view text, char mark = kMarkup);
// Throw Error where lists and dicts would lie more than 200 deep, or hold too much.
Value list_value(std::vector<Value> items, Shape shape = Shape::list);
Value dict_value(std::vector<std::pair<Value, Value>> items);

Extent extent_of(const Value& value);

// What Python calls the type.
const char* kind_name(const Value& value);

bool is_sequence(const Value& value);  // a list or a tuple
bool is_true(const Value& value);
bool equals(const Value& a, const Value& b);
// Negative, 0 or positive. Throws Error for values that have no order.
int order(const Value& a, const Value& b);

// What Python's str() and repr() write. Throw Error for what has no text here, such as a macro.
void append_str(const Value& value, MarkedText& out);
void append_repr(const Value& value, MarkedText& out);
MarkedText str(const Value& value);
std::string real_text(double value);

void append(MarkedText& out, MarkedView part);

// JSON as Python's json.dumps writes it.
struct JsonForm {
  bool ensure_ascii = false, sort_keys = false;
  std::optional<std::string> indent;  // of one level
  std::string between = ", ", after_key = ": ";
};
void append_json(const Value& value, const JsonForm& form, MarkedText& out);

// The value of a JSON text, whose strings have this mark. Throws Error for what is no JSON, more
// than 100 deep, or has numbers beyond 64 bits.
Value value_from_json(std::string_view json, char mark);

}  // namespace runner::templates
