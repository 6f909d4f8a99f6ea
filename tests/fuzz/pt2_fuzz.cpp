// What a .pt2 says of itself, out of any bytes: Error may be thrown, and nothing else may happen.
// scripts/fuzz_pt2.sh builds and runs it.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backends/aoti_artifact.h"
#include "system/error.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

using namespace runner;
using nlohmann::json;

constexpr size_t kCrcBeforeName = 30;  // in a directory's entry
constexpr size_t kGrowth = 64;         // of a text in one mutation

// With PT2_FUZZ_SEEDS set every input must be good.
template <class F>
void attempt(F body) {
  static const bool seeds = std::getenv("PT2_FUZZ_SEEDS") != nullptr;
  try {
    body();
  } catch (const Error&) {
    if (seeds) throw;
  }
}

std::vector<ZipMember> members_of(std::span<const std::byte> archive) {
  try {
    return read_zip("fuzz.pt2", archive);
  } catch (const Error&) {
    return {};
  }
}

uint32_t crc32_of(std::span<const std::byte> data, uint32_t) {
  static const auto kTable = [] {
    std::array<uint32_t, 256> table;
    for (uint32_t i = 0; i < 256; ++i) {
      table[i] = i;
      for (int bit = 0; bit < 8; ++bit) {
        table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320U : 0U);
      }
    }
    return table;
  }();
  uint32_t crc = ~0U;
  for (std::byte b : data) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint32_t>(b)) & 0xff];
  return ~crc;
}

// A copy of an archive, aligned as a mapped file is.
class Copy {
 public:
  explicit Copy(std::span<const uint8_t> archive)
      : bytes_(new (kPage) std::byte[archive.size()], archive.size()) {
    std::ranges::copy(std::as_bytes(archive), bytes_.begin());
  }
  ~Copy() { ::operator delete[](bytes_.data(), kPage); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  static constexpr std::align_val_t kPage{4096};
  std::span<std::byte> bytes_;
};

// Here and not in the mutator: what fails there cannot be repeated.
void repair_crcs(std::span<std::byte> archive) {
  for (const ZipMember& member : members_of(archive)) {
    const uint32_t crc = crc32_of(member.data);
    const auto name = reinterpret_cast<const std::byte*>(member.name.data()) - archive.data();
    std::memcpy(&archive[name - kCrcBeforeName], &crc, sizeof crc);
  }
}

void read_weights(const AotiArtifact& artifact) {
  // A copy, since what lies beyond the weights may still lie in the archive.
  const std::vector<std::byte> bytes(artifact.weights.begin(), artifact.weights.end());
  for (const Weight& weight : artifact.metadata.weights) {
    if (weight.bytes == 0) continue;
    [[maybe_unused]] volatile std::byte read = bytes.at(weight.offset);
    read = bytes.at(weight.offset + weight.bytes - 1);
  }
}

// Mutates a leaf of JSON, or of JSON in its strings; or any bytes, and always what is no JSON.
void mutate(std::string& text, std::minstd_rand& random) {
  json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded() || random() % 4 == 0) {
    const size_t size = text.size();
    text.resize(size + kGrowth);
    auto* data = reinterpret_cast<uint8_t*>(text.data());
    text.resize(LLVMFuzzerMutate(data, size, text.size()));
    return;
  }
  json* leaf = &root;
  while (leaf->is_structured() && !leaf->empty()) {
    leaf = &*std::next(leaf->begin(), random() % leaf->size());
  }
  if (leaf->is_string()) {
    mutate(leaf->get_ref<std::string&>(), random);
  } else {
    *leaf = uint64_t{random()} * random() >> random() % 62;  // of any length
  }
  text = root.dump(-1, ' ', false, json::error_handler_t::replace);
}

// The spaces behind the metadata are its room to grow.
void mutate_metadata(std::span<uint8_t> place, std::minstd_rand& random) {
  std::string text(place.begin(), place.end());
  text.erase(text.find_last_not_of(' ') + 1);
  mutate(text, random);
  if (text.size() > place.size()) return;
  text.resize(place.size(), ' ');
  std::memcpy(place.data(), text.data(), text.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Copy archive({data, size});
  repair_crcs(archive.bytes());
  attempt([&] {
    const AotiArtifact artifact = read_aoti_package("fuzz.pt2", archive.bytes());
    for (const Target& target : artifact.metadata.targets) {
      attempt([&] { package_code(artifact, target); });
    }
    read_weights(artifact);
    best_target(artifact);
  });
  return 0;
}

// Half of the time the metadata alone, where it lies; else any bytes.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  std::minstd_rand random(seed);
  if (random() % 2 == 0) return LLVMFuzzerMutate(data, size, max_size);
  for (const ZipMember& member : members_of(std::as_bytes(std::span(data, size)))) {
    if (!member.name.ends_with("/model_metadata.json") || member.data.empty()) continue;
    const auto* start = reinterpret_cast<const uint8_t*>(member.data.data());
    mutate_metadata({data + (start - data), member.data.size()}, random);
    return size;
  }
  return LLVMFuzzerMutate(data, size, max_size);
}
