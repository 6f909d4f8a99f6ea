#pragma once

// Reads the values of an artifact's metadata, each checked.

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/metadata.h"
#include "system/error.h"

namespace runner {

using nlohmann::json;

// A value in a message of one line.
inline std::string shortened(const std::string& value) {
  std::string text = value.size() <= 60 ? value : value.substr(0, 60) + "...";
  std::replace_if(text.begin(), text.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return text;
}

// Reads values of one artifact; every complaint names the file, the key and the value.
class MetadataReader {
 public:
  MetadataReader(const StringMap& map, const std::string& path) : map_(map), path_(path) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(path_ + ": " + what + "; export the model again");
  }

  [[noreturn]] void bad(const char* key, const std::string& wanted) const {
    fail(std::string("metadata '") + key + "' is '" + shortened(map_.at(key)) + "', expected " +
         wanted);
  }

  const std::string& text(const char* key) const {
    auto found = map_.find(key);
    if (found == map_.end()) fail(std::string("metadata '") + key + "' is missing");
    return found->second;
  }

  std::string one_of(const char* key, std::initializer_list<const char*> choices) const {
    const std::string& value = text(key);
    std::string list;
    for (const char* choice : choices) {
      if (value == choice) return value;
      list += (list.empty() ? "" : ", ") + std::string(choice);
    }
    bad(key, "one of " + list);
  }

  int64_t integer(const char* key, int64_t low, int64_t high) const {
    const std::string& value = text(key);
    int64_t number = 0;
    const char* end = value.data() + value.size();
    auto [stop, error] = std::from_chars(value.data(), end, number);
    if (error != std::errc() || stop != end || number < low || number > high) {
      bad(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
    }
    return number;
  }

  json parsed(const char* key, json::value_t type, const char* wanted) const {
    json value = json::parse(std::string_view(text(key)), nullptr, /*allow_exceptions=*/false);
    if (value.is_discarded() || value.type() != type) bad(key, wanted);
    return value;
  }

  std::vector<int64_t> integers(const char* key, int64_t low, int64_t high) const {
    const std::string wanted =
        "a JSON list of integers from " + std::to_string(low) + " to " + std::to_string(high);
    std::vector<int64_t> numbers;
    for (const json& item : parsed(key, json::value_t::array, wanted.c_str())) {
      if (!item.is_number_integer()) bad(key, wanted);
      const auto number = item.get<int64_t>();
      if (number < low || number > high) bad(key, wanted);
      numbers.push_back(number);
    }
    return numbers;
  }

  std::vector<std::string> strings(const char* key) const {
    std::vector<std::string> list;
    for (const json& item : parsed(key, json::value_t::array, "a JSON list of strings")) {
      if (!item.is_string()) bad(key, "a JSON list of strings");
      list.push_back(item.get<std::string>());
    }
    return list;
  }

 private:
  const StringMap& map_;
  const std::string& path_;
};

// A value of a JSON object, which is not copied: to copy what is nested deeply takes a deep stack.
// `bad` says what is wrong and throws.
template <class F>
const json& child(const json& object, const char* name, F bad) {
  const auto found = object.find(name);
  if (found == object.end()) bad();
  return *found;
}

template <class T, class F>
T member(const json& object, const char* name, F bad) {
  try {
    return child(object, name, bad).template get<T>();
  } catch (const json::exception&) {
    bad();
    throw;
  }
}

}  // namespace runner
