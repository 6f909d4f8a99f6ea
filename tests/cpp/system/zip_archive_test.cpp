// Archives that are whole, cut off and wrong. They are written here, byte for byte.

#include "system/zip_archive.h"

#include <sys/mman.h>

#include <cstring>

#include "system/error.h"
#include "tests/cpp/check.h"

using namespace runner;

namespace {

void put(std::string& out, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) out += static_cast<char>(value >> 8 * i & 0xff);
}

struct Entry {
  std::string name, data;
  uint32_t crc = 0;
  uint16_t method = 0, flags = 0;
};

// With `zip64` every size and offset is in a zip64 field.
std::string archive(const std::vector<Entry>& entries, bool zip64 = false) {
  std::string out, directory;
  for (const Entry& entry : entries) {
    const uint64_t local = out.size();
    std::string extra;
    if (zip64) {
      put(extra, 1, 2);
      put(extra, 24, 2);
      put(extra, entry.data.size(), 8);
      put(extra, entry.data.size(), 8);
      put(extra, local, 8);
    }
    const uint64_t size = zip64 ? 0xffffffff : entry.data.size();
    const auto common = [&](std::string& to) {
      put(to, entry.flags, 2);
      put(to, entry.method, 2);
      put(to, 0, 4);  // time
      put(to, entry.crc, 4);
      put(to, size, 4);
      put(to, size, 4);
      put(to, entry.name.size(), 2);
    };
    put(out, 0x04034b50, 4);
    put(out, 20, 2);
    common(out);
    put(out, 0, 2);
    out += entry.name + entry.data;
    put(directory, 0x02014b50, 4);
    put(directory, 20, 2);
    put(directory, 20, 2);
    common(directory);
    put(directory, extra.size(), 2);
    directory.append(10, '\0');  // comment, disk, attributes
    put(directory, zip64 ? 0xffffffff : local, 4);
    directory += entry.name + extra;
  }
  const uint64_t start = out.size();
  out += directory;
  if (zip64) {
    const uint64_t end64 = out.size();
    put(out, 0x06064b50, 4);
    put(out, 44, 8);
    put(out, 45, 2);
    put(out, 45, 2);
    put(out, 0, 8);
    put(out, entries.size(), 8);
    put(out, entries.size(), 8);
    put(out, directory.size(), 8);
    put(out, start, 8);
    put(out, 0x07064b50, 4);
    put(out, 0, 4);
    put(out, end64, 8);
    put(out, 1, 4);
  }
  put(out, 0x06054b50, 4);
  put(out, 0, 4);
  put(out, zip64 ? 0xffff : entries.size(), 2);
  put(out, zip64 ? 0xffff : entries.size(), 2);
  put(out, zip64 ? 0xffffffff : directory.size(), 4);
  put(out, zip64 ? 0xffffffff : start, 4);
  put(out, 0, 2);
  return out;
}

std::span<const std::byte> bytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string text(const ZipMember& member) {
  return {reinterpret_cast<const char*>(member.data.data()), member.data.size()};
}

// CRC-32 of "123456789" is the check value that every description of the polynomial gives.
const std::vector<Entry> kTwo = {{"a/one", "123456789", 0xcbf43926}, {"a/two", "", 0}};

}  // namespace

TEST(members_lie_where_they_are) {
  for (const bool zip64 : {false, true}) {
    const std::string file = archive(kTwo, zip64);
    const auto members = read_zip("f.zip", bytes(file));
    CHECK_EQ(members.size(), size_t{2});
    CHECK_EQ(members[0].name, "a/one");
    CHECK_EQ(text(members[0]), "123456789");
    CHECK_EQ(text(members[1]), "");
    CHECK(reinterpret_cast<const char*>(members[0].data.data()) > file.data());
    for (const ZipMember& member : members) check_zip_crc("f.zip", member);
  }
}

// As zipfile of Python writes a file of 4 GiB and one behind it: the first has its sizes in zip64
// fields, the second its place. Only the pages of the headers are touched.
TEST(files_beyond_4_gib) {
  const uint64_t large = (uint64_t{1} << 32) + 100, room = large + 4096;
  void* memory = mmap(nullptr, room, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  auto* const file = static_cast<char*>(memory);
  uint64_t end = 0;
  const auto add = [&](const std::string& bytes) {
    std::memcpy(file + end, bytes.data(), bytes.size());
    end += bytes.size();
  };
  const auto sizes = [](std::string& to, uint64_t size, size_t name_bytes, size_t extra_bytes) {
    put(to, 0, 12);  // flags, method, time, check sum
    put(to, size, 4);
    put(to, size, 4);
    put(to, name_bytes, 2);
    put(to, extra_bytes, 2);
  };
  std::string header;
  put(header, 0x04034b50, 4);
  put(header, 45, 2);
  sizes(header, 0xffffffff, 1, 20);
  header += "a";
  put(header, 1, 2);
  put(header, 16, 2);
  put(header, large, 8);
  put(header, large, 8);
  add(header);
  const uint64_t first = end;
  end += large;
  file[end - 1] = 'z';
  const uint64_t second = end;
  header.clear();
  put(header, 0x04034b50, 4);
  put(header, 20, 2);
  sizes(header, 3, 1, 0);
  add(header + "bxyz");

  const uint64_t directory = end;
  std::string entry;
  const auto central = [&](const char* name, uint64_t size, uint64_t local,
                           const std::string& extra) {
    put(entry, 0x02014b50, 4);
    put(entry, 45, 2);
    put(entry, 45, 2);
    sizes(entry, size, 1, extra.size());
    entry.append(10, '\0');  // comment, disk, attributes
    put(entry, local, 4);
    entry += name + extra;
  };
  std::string extra;
  put(extra, 1, 2);
  put(extra, 16, 2);
  put(extra, large, 8);
  put(extra, large, 8);
  central("a", 0xffffffff, 0, extra);
  extra.clear();
  put(extra, 1, 2);
  put(extra, 8, 2);
  put(extra, second, 8);
  central("b", 3, 0xffffffff, extra);
  const uint64_t directory_bytes = entry.size(), end64 = directory + directory_bytes;
  put(entry, 0x06064b50, 4);
  put(entry, 44, 8);
  put(entry, 45, 2);
  put(entry, 45, 2);
  put(entry, 0, 8);
  put(entry, 2, 8);
  put(entry, 2, 8);
  put(entry, directory_bytes, 8);
  put(entry, directory, 8);
  put(entry, 0x07064b50, 4);
  put(entry, 0, 4);
  put(entry, end64, 8);
  put(entry, 1, 4);
  put(entry, 0x06054b50, 4);
  put(entry, 0, 4);
  put(entry, 2, 2);
  put(entry, 2, 2);
  put(entry, directory_bytes, 4);
  put(entry, 0xffffffff, 4);
  put(entry, 0, 2);
  add(entry);

  const auto* bytes = reinterpret_cast<const std::byte*>(file);
  const auto members = read_zip("f.zip", {bytes, end});
  CHECK_EQ(members.size(), size_t{2});
  CHECK_EQ(members[0].data.data() - bytes, static_cast<ptrdiff_t>(first));
  CHECK_EQ(members[0].data.size(), size_t{large});
  CHECK_EQ(static_cast<char>(members[0].data.back()), 'z');
  CHECK_EQ(members[1].name, "b");
  CHECK_EQ(text(members[1]), "xyz");
  CHECK_THROWS(Error, read_zip("f.zip", {bytes, directory}), "f.zip is damaged", "export it again");
  munmap(memory, room);
}

TEST(a_comment_may_follow) {
  std::string file = archive(kTwo);
  file[file.size() - 2] = 5;
  CHECK_EQ(read_zip("f.zip", bytes(file + "hello")).size(), size_t{2});
}

TEST(every_cut_is_an_error) {
  for (const bool zip64 : {false, true}) {
    const std::string file = archive(kTwo, zip64);
    for (size_t length = 0; length < file.size(); ++length) {
      const std::string cut = file.substr(0, length);
      CHECK_THROWS(Error, read_zip("f.zip", bytes(cut)), "f.zip is damaged", "export it again");
    }
  }
}

// Whatever a byte becomes: what is read lies in the archive, or it is an error.
TEST(every_changed_byte_is_an_error_or_harmless) {
  for (const bool zip64 : {false, true}) {
    const std::string file = archive(kTwo, zip64);
    for (size_t at = 0; at < file.size(); ++at) {
      for (const int flip : {0x01, 0x10, 0x80, 0xff}) {
        std::string changed = file;
        changed[at] = static_cast<char>(changed[at] ^ flip);
        const auto all = bytes(changed);
        try {
          for (const ZipMember& member : read_zip("f.zip", all)) {
            CHECK(member.data.data() >= all.data());
            CHECK(member.data.data() + member.data.size() <= all.data() + all.size());
          }
        } catch (const Error&) {
        }
      }
    }
  }
}

TEST(what_cannot_be_used_in_place_is_refused) {
  const std::string deflated = archive({{"x", "123", 0, 8, 0}});
  CHECK_THROWS(Error, read_zip("f.zip", bytes(deflated)), "compressed or encrypted");
  const std::string encrypted = archive({{"x", "123", 0, 0, 1}});
  CHECK_THROWS(Error, read_zip("f.zip", bytes(encrypted)), "compressed or encrypted");
}

TEST(other_bytes_than_were_written) {
  const std::string file = archive({{"a/one", "123456780", 0xcbf43926}});
  const auto members = read_zip("f.zip", bytes(file));
  CHECK_THROWS(Error, check_zip_crc("f.zip", members[0]), "a/one", "f.zip");
}

CHECK_MAIN()
