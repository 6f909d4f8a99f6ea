#pragma once

#include <cstdint>

namespace runner {

// Largest resident memory of this process so far, in bytes.
int64_t peak_rss_bytes();

}  // namespace runner
