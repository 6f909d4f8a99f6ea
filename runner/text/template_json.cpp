// JSON texts as values, whose objects keep the order of their keys: the parser tells what it meets.

#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "system/error.h"
#include "text/json_nesting.h"
#include "text/template_value.h"

namespace runner::templates {
namespace {

using nlohmann::json;

// As Python: of a key that is there twice the last value counts, in the first one's place.
Value dict_of(std::vector<Value> items) {
  std::vector<std::pair<Value, Value>> pairs;
  std::map<std::string_view, size_t> places;
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const auto [place, is_new] = places.try_emplace(items[i].bytes(), pairs.size());
    if (is_new) {
      pairs.emplace_back(std::move(items[i]), std::move(items[i + 1]));
    } else {
      pairs[place->second].second = std::move(items[i + 1]);
    }
  }
  return dict_value(std::move(pairs));
}

class Builder {
 public:
  explicit Builder(char mark) : mark_(mark) {}

  // Returns whether the library keeps what it met: containers, whose parts it would not tell otherwise.
  bool take(json::parse_event_t event, const json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        open_.emplace_back();
        return true;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end: {
        std::vector<Value> items = std::move(open_.back());
        open_.pop_back();
        const bool is_object = event == json::parse_event_t::object_end;
        put(is_object ? dict_of(std::move(items)) : list_value(std::move(items)));
        return open_.empty();  // of the whole the library wants a value
      }
      case json::parse_event_t::key:
        put(scalar(parsed));
        return true;
      case json::parse_event_t::value:
        put(scalar(parsed));
        return false;
    }
    return false;
  }

  Value take_result() { return std::move(result_); }

 private:
  Value scalar(const json& parsed) const {
    if (parsed.is_string()) return text_value(parsed.get_ref<const std::string&>(), mark_);
    if (parsed.is_boolean()) return parsed.get<bool>();
    if (parsed.is_null()) return None();
    if (parsed.is_number_float()) return parsed.get<double>();
    if (parsed.is_number_unsigned() && parsed.get<uint64_t>() > std::numeric_limits<int64_t>::max()) {
      throw Error("its number " + std::to_string(parsed.get<uint64_t>()) + " is beyond 64 bits");
    }
    return parsed.get<int64_t>();
  }

  void put(Value value) {
    if (open_.empty()) {
      result_ = std::move(value);
    } else {
      open_.back().push_back(std::move(value));
    }
  }

  char mark_;
  std::vector<std::vector<Value>> open_;
  Value result_;
};

}  // namespace

Value value_from_json(std::string_view text, char mark) {
  check_nesting(text);
  Builder builder(mark);
  try {
    const json kept = json::parse(text, [&](int, json::parse_event_t event, json& parsed) {
      return builder.take(event, parsed);
    });
  } catch (const json::exception& error) {
    throw Error(error.what());
  }
  return builder.take_result();
}

}  // namespace runner::templates
