#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kernels/lowbit.h"

namespace runner {

// The type of that name; none where there is no such cache.
std::optional<lowbit::CacheType> cache_type_of(std::string_view name);

// Its name in metadata.
std::string_view name_of(lowbit::CacheType type);

// Every name of a cache type, "float32, fp32, ...".
std::string cache_type_names();

}  // namespace runner
