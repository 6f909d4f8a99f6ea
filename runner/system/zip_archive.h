#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace runner {

// One file of an archive. `data` points into the bytes that the archive was read from.
struct ZipMember {
  std::string_view name;
  std::span<const std::byte> data;
  uint32_t crc32 = 0;
};

// The members of a zip archive whose files are stored without compression, so that they can be used
// where they lie. Offsets and sizes are checked against each other and the archive's end; the
// members' bytes are not read. `path` names the archive in messages.
//
// Source of the format: PKWARE's APPNOTE 6.3.10, sections 4.3.7, 4.3.12 to 4.3.16 and 4.5.3 (zip64).
// Throws Error when the archive is cut off, damaged, compressed or encrypted.
std::vector<ZipMember> read_zip(const std::string& path, std::span<const std::byte> archive);

// Throws Error when the member's bytes are not those that were written.
void check_zip_crc(const std::string& path, const ZipMember& member);

}  // namespace runner
