#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>

namespace runner {

// A JSON object on one line, its fields in this order, which an object of nlohmann's keeps for 15 KB of
// code only.
inline std::string json_line(std::span<const std::pair<const char*, nlohmann::json>> fields) {
  std::string text;
  for (const auto& [name, value] : fields) {
    text += (text.empty() ? "{\"" : ",\"") + std::string(name) + "\":";
    text += value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return text + "}";
}

}  // namespace runner
