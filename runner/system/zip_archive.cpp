#include "system/zip_archive.h"

#include <algorithm>

#include "system/crc32.h"
#include "system/error.h"

namespace runner {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr uint64_t kLocalBytes = 30, kCentralBytes = 46;
constexpr uint64_t kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20;
constexpr uint64_t kMaxComment = 0xffff;
constexpr uint64_t kMoved16 = 0xffff, kMoved32 = 0xffffffff;  // the value is in a zip64 record
constexpr uint16_t kZip64Field = 1;
constexpr uint16_t kEncrypted = 1;

// Little-endian numbers out of bytes; every read is checked against the end.
class Bytes {
 public:
  Bytes(const std::string& path, std::span<const std::byte> bytes) : path_(path), bytes_(bytes) {}

  uint64_t size() const { return bytes_.size(); }

  [[noreturn]] void fail(const char* what) const {
    throw Error(path_ + " is damaged: " + what + "; copy or export it again");
  }

  uint64_t number(uint64_t at, uint64_t width) const {
    const auto field = slice(at, width);
    uint64_t value = 0;
    for (uint64_t i = width; i-- > 0;) value = value << 8 | static_cast<uint8_t>(field[i]);
    return value;
  }
  uint16_t u16(uint64_t at) const { return static_cast<uint16_t>(number(at, 2)); }
  uint32_t u32(uint64_t at) const { return static_cast<uint32_t>(number(at, 4)); }
  uint64_t u64(uint64_t at) const { return number(at, 8); }

  std::span<const std::byte> slice(uint64_t at, uint64_t length) const {
    if (at > size() || length > size() - at) fail("a part of it lies beyond its end");
    return bytes_.subspan(at, length);
  }

  std::string_view text(uint64_t at, uint64_t length) const {
    const auto bytes = slice(at, length);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  const std::string& path_;
  std::span<const std::byte> bytes_;
};

struct Directory {
  uint64_t offset = 0, size = 0, entries = 0;
};

// The directory's place is in the last record, which a comment may follow.
Directory find_directory(const Bytes& in) {
  const uint64_t size = in.size();
  if (size < kEndBytes) in.fail("it is cut off");
  const uint64_t first = size - kEndBytes - std::min(kMaxComment, size - kEndBytes);
  for (uint64_t at = size - kEndBytes + 1; at-- > first;) {
    if (in.u32(at) != kEnd || in.u16(at + 20) != size - at - kEndBytes) continue;
    Directory found{in.u32(at + 16), in.u32(at + 12), in.u16(at + 10)};
    const bool moved =
        found.offset == kMoved32 || found.size == kMoved32 || found.entries == kMoved16;
    if (!moved) return found;
    if (at < kLocator64Bytes || in.u32(at - kLocator64Bytes) != kLocator64) {
      in.fail("its directory has no place");
    }
    const uint64_t end64 = in.u64(at - kLocator64Bytes + 8);
    in.slice(end64, kEnd64Bytes);
    if (in.u32(end64) != kEnd64) in.fail("its directory has no place");
    return {in.u64(end64 + 48), in.u64(end64 + 40), in.u64(end64 + 32)};
  }
  in.fail("it is cut off: its directory is missing");
}

// Replaces the values that are too long for their fields by those of the zip64 field.
void read_zip64(const Bytes& in, uint64_t at, uint64_t length,
                std::initializer_list<uint64_t*> values) {
  const uint64_t end = at + length;
  while (end - at >= 4) {
    const uint16_t kind = in.u16(at), size = in.u16(at + 2);
    at += 4;
    if (size > end - at) in.fail("an extra field is too long");
    if (kind != kZip64Field) {
      at += size;
      continue;
    }
    const uint64_t field_end = at + size;
    for (uint64_t* value : values) {
      if (*value != kMoved32) continue;
      if (field_end - at < 8) in.fail("a size is missing");
      *value = in.u64(at);
      at += 8;
    }
    return;
  }
}

// Reads the directory's entry at `at` and moves `at` behind it.
ZipMember read_entry(const Bytes& in, uint64_t& at) {
  in.slice(at, kCentralBytes);
  if (in.u32(at) != kCentralHeader) in.fail("its directory is broken");
  const uint64_t name_bytes = in.u16(at + 28), extra_bytes = in.u16(at + 30);
  const uint64_t comment_bytes = in.u16(at + 32);
  const uint64_t extra = at + kCentralBytes + name_bytes;
  in.slice(at, kCentralBytes + name_bytes + extra_bytes + comment_bytes);

  ZipMember member;
  member.name = in.text(at + kCentralBytes, name_bytes);
  member.crc32 = in.u32(at + 16);
  if (in.u16(at + 8) & kEncrypted || in.u16(at + 10) != 0) {
    in.fail("a file in it is compressed or encrypted");
  }
  uint64_t stored = in.u32(at + 20), size = in.u32(at + 24), local = in.u32(at + 42);
  read_zip64(in, extra, extra_bytes, {&size, &stored, &local});
  if (size != stored) in.fail("a file in it has two sizes");
  at = extra + extra_bytes + comment_bytes;

  in.slice(local, kLocalBytes);
  if (in.u32(local) != kLocalHeader) in.fail("a file in it has no header");
  const uint64_t local_name = in.u16(local + 26), local_extra = in.u16(local + 28);
  if (in.text(local + kLocalBytes, local_name) != member.name) {
    in.fail("a file in it has two names");
  }
  member.data = in.slice(local + kLocalBytes + local_name + local_extra, size);
  return member;
}

}  // namespace

std::vector<ZipMember> read_zip(const std::string& path, std::span<const std::byte> archive) {
  const Bytes in(path, archive);
  const Directory directory = find_directory(in);
  in.slice(directory.offset, directory.size);
  if (directory.entries > directory.size / kCentralBytes) in.fail("its directory is too short");
  std::vector<ZipMember> members;
  members.reserve(directory.entries);
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.entries; ++i) members.push_back(read_entry(in, at));
  return members;
}

void check_zip_crc(const std::string& path, const ZipMember& member) {
  if (crc32_of(member.data) == member.crc32) return;
  throw Error(path + " is damaged: " + std::string(member.name) +
              " has other bytes than were written; copy or export it again");
}

}  // namespace runner
