#pragma once

#include <string>
#include <string_view>

namespace runner {

// Decodes standard base64 (RFC 4648, padded). Throws Error when `text` is anything else.
std::string decode_base64(std::string_view text);

}  // namespace runner
