#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace runner {

// The sum of ISO 3309, as zip archives have it; `before` is that of what comes before `data`.
uint32_t crc32_of(std::span<const std::byte> data, uint32_t before = 0);

}  // namespace runner
