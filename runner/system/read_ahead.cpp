#include "system/read_ahead.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <span>
#include <vector>

#include "system/available_memory.h"
#include "system/error.h"
#include "system/mapped_file.h"

namespace runner {
namespace {

constexpr size_t kBlock = 8 << 20;
constexpr double kMost = 0.9;  // of a file that counts as in memory

double part_in_memory(std::span<const std::byte> mapped) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
#ifdef __APPLE__
  std::vector<char> pages((mapped.size() + page - 1) / page);
#else
  std::vector<unsigned char> pages((mapped.size() + page - 1) / page);
#endif
  if (mincore(const_cast<std::byte*>(mapped.data()), mapped.size(), pages.data()) != 0) return 1;
  const auto there = std::count_if(pages.begin(), pages.end(), [](auto each) { return (each & 1) != 0; });
  return static_cast<double>(there) / static_cast<double>(pages.size());
}

}  // namespace

double part_in_memory(const std::string& path) { return part_in_memory(MappedFile(path).bytes()); }

void read_ahead(const std::string& path, const std::function<bool(double part)>& go_on) {
  double there = 1;
  size_t size = 0;
  try {
    const MappedFile file(path);
    size = file.bytes().size();
    there = part_in_memory(file.bytes());
  } catch (const Error&) {
  }
  const auto left = available_memory();
  if (there >= kMost || !left || static_cast<uint64_t>(*left) < size) return;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  std::vector<std::byte> block(kBlock);
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(file, block.data(), block.size());
    if (n <= 0) break;
    done += static_cast<size_t>(n);
    if (!go_on(static_cast<double>(done) / static_cast<double>(size))) break;
  }
  close(file);
}

}  // namespace runner
