#include "model/cache_types.h"

#include <utility>

namespace runner {
namespace {

using lowbit::CacheType;

// As metadata have them, and as --cache-dtype takes them, too.
constexpr std::pair<std::string_view, CacheType> kCacheTypes[] = {
    {"float32", CacheType::float32}, {"fp32", CacheType::float32},
    {"float16", CacheType::float16}, {"fp16", CacheType::float16},
    {"int8", CacheType::int8},       {"int4", CacheType::int4},
};

}  // namespace

std::optional<CacheType> cache_type_of(std::string_view name) {
  for (const auto& [known, type] : kCacheTypes) {
    if (known == name) return type;
  }
  return std::nullopt;
}

std::string_view name_of(CacheType type) {
  for (const auto& [name, known] : kCacheTypes) {
    if (known == type) return name;
  }
  return "";
}

std::string cache_type_names() {
  std::string names;
  for (const auto& [name, type] : kCacheTypes) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

}  // namespace runner
