// Damaged packed weights: view() gives an error, or a weight that lies within its bytes and that
// the operators can take.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/lowbit.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;
using lowbit::Header;
using lowbit::kHeaderBytes;

namespace {

using Bytes = std::vector<uint8_t>;

// A memory block of exactly that size: reading beyond it is seen by the address sanitizer.
struct Exact {
  std::unique_ptr<uint8_t[]> data;
  size_t size;
  Exact(const uint8_t* from, size_t n) : data(new uint8_t[n]), size(n) {
    std::copy_n(from, n, data.get());
  }
  explicit Exact(const Bytes& bytes) : Exact(bytes.data(), bytes.size()) {}
};

// One weight of each kind, small enough that sizes agree by chance.
const std::vector<Bytes>& samples() {
  static const std::vector<Bytes> all = [] {
    Random random(34);
    std::vector<Bytes> result;
    for (uint32_t bits = 1; bits <= 8; ++bits) {
      for (const Zeros zeros : {Zeros::none, Zeros::integer, Zeros::real}) {
        result.push_back(
            random_weight(random, {Kind::integer, bits, bits % 2 == 0 ? 32u : 16u, zeros}, 17, 40)
                .bytes);
      }
      for (const Zeros zeros : {Zeros::none, Zeros::integer}) {
        const Format format{Kind::integer, bits, bits % 2 == 0 ? 32u : 16u, zeros, Scales::int8};
        result.push_back(random_weight(random, format, 17, 40).bytes);
      }
    }
    for (const Scales scales : {Scales::float16, Scales::int8}) {
      const Format format{Kind::integer, 1, 16, Zeros::between, scales};
      result.push_back(random_weight(random, format, 17, 40).bytes);
    }
    for (const Kind kind : {Kind::float32, Kind::float16, Kind::bfloat16}) {
      const Format format{kind, kind == Kind::float32 ? 32u : 16u, 0, Zeros::none};
      const auto values = random.values(17 * 20);
      Bytes bytes(lowbit::packed_size(format, 17, 20));
      lowbit::pack_float(format, 17, 20, values.data(), bytes.data());
      result.push_back(bytes);
    }
    return result;
  }();
  return all;
}

bool lies_within(const PackedWeight& w, const Exact& bytes) {
  const auto panels = static_cast<size_t>(w.panel_count());
  if (w.panels != bytes.data.get() + kHeaderBytes || w.rows < 1 || w.columns < 1) return false;
  if (panels * 16 < static_cast<size_t>(w.rows) || w.padded_columns < w.columns) return false;
  if (panels * w.panel_bytes > bytes.size - kHeaderBytes) return false;
  if (w.format.kind != Kind::integer) {
    return static_cast<size_t>(w.columns) * 16 * (w.format.bits / 8) <= w.panel_bytes;
  }
  const auto groups = static_cast<size_t>(w.groups);
  const size_t before = w.int8_scales() ? 32 : 64, scales = groups * (w.int8_scales() ? 16 : 32);
  return groups * w.format.group_size >= static_cast<size_t>(w.columns) && w.scales_at >= before &&
         w.zeros_at >= w.scales_at + scales && w.data_at >= w.zeros_at &&
         w.data_at + static_cast<size_t>(w.padded_columns) * w.format.bits * 2 <= w.panel_bytes;
}

// Everything that reads a weight.
void use(const PackedWeight& w) {
  SerialHost host;
  constexpr int64_t kTokens = 5;
  const std::vector<float> x(static_cast<size_t>(kTokens * w.columns), 0.5f);
  std::vector<float> out(static_cast<size_t>(kTokens * w.rows)),
      row(static_cast<size_t>(w.columns));
  const int64_t last = w.rows - 1;
  CHECK(lowbit::embedding(host, &last, 1, w, row.data()));
  if (w.format.kind != Kind::integer) {
    return lowbit::linear_fp(host, x.data(), kTokens, w, nullptr, out.data());
  }
  for (const auto scales : {lowbit::ActivationScales::group, lowbit::ActivationScales::token}) {
    // calls.cpp refuses it.
    if (w.int8_scales() && scales == lowbit::ActivationScales::token) continue;
    lowbit::linear_a8wx(host, x.data(), kTokens, w, scales, nullptr, out.data());
    lowbit::linear_a8wx(host, x.data(), 1, w, scales, nullptr, out.data());
  }
  if ((w.format.bits == 4 || w.format.bits == 8) && !w.int8_scales()) {
    lowbit::linear_wx(host, x.data(), kTokens, w, nullptr, out.data());
  }
}

// Whether view() takes these bytes. Once in `used` times, what it takes is used.
bool taken(const Bytes& bytes, int used = 1) {
  static int count = 0;
  const Exact exact(bytes);
  PackedWeight w{};
  const std::string error = lowbit::view(exact.data.get(), exact.size, &w);
  if (!error.empty()) {
    CHECK(error.find('\n') == std::string::npos);
    return false;
  }
  CHECK(lies_within(w, exact));
  if (count++ % used == 0) use(w);
  return true;
}

template <typename T>
Bytes with(Bytes bytes, size_t offset, T value) {
  std::memcpy(&bytes[offset], &value, sizeof(value));
  return bytes;
}

template <typename T>
T field(const Bytes& bytes, size_t offset) {
  T value;
  std::memcpy(&value, &bytes[offset], sizeof(value));
  return value;
}

// The same of a stack: each of its weights lies behind the one before it.
bool stack_taken(const Bytes& bytes) {
  const Exact exact(bytes);
  lowbit::PackedStack stack;
  const std::string error = stack.view(exact.data.get(), exact.size);
  if (!error.empty()) {
    CHECK(error.find('\n') == std::string::npos);
    return false;
  }
  const uint8_t* at = exact.data.get() + kHeaderBytes;
  const uint8_t* end = exact.data.get() + exact.size;
  int64_t rows = 0;
  for (const PackedWeight& w : stack.weights()) {
    CHECK(w.panels >= at && w.columns == stack.columns() && w.output_stride == stack.rows());
    at = w.panels + static_cast<size_t>(w.panel_count()) * w.panel_bytes;
    CHECK(at <= end);
    rows += w.rows;
  }
  CHECK_EQ(rows, stack.rows());
  SerialHost host;
  const int64_t last = rows - 1;
  std::vector<float> row(static_cast<size_t>(stack.columns()));
  CHECK(lowbit::embedding(host, &last, 1, stack.weights(), 1, row.data()));
  return true;
}

// Three weights, the second of one row.
const Bytes& sample_stack() {
  static const Bytes bytes = [] {
    Random random(40);
    const Bytes weights[] = {
        random_weight(random, {Kind::integer, 6, 32, Zeros::none}, 17, 40).bytes,
        random_weight(random, {Kind::integer, 3, 16, Zeros::integer}, 1, 40).bytes,
        random_weight(random, {Kind::integer, 4, 32, Zeros::none, Scales::int8}, 16, 40).bytes};
    return stacked({weights[0], weights[1], weights[2]});
  }();
  return bytes;
}

}  // namespace

TEST(a_stack_truncated_at_each_length) {
  const Bytes& bytes = sample_stack();
  CHECK(stack_taken(bytes));
  for (size_t n = 0; n < bytes.size(); ++n) {
    CHECK(!stack_taken(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n))));
  }
  Bytes longer = bytes;
  longer.resize(bytes.size() + 64);
  CHECK(!stack_taken(longer));
}

TEST(each_field_of_a_stack_altered) {
  using Stack = lowbit::StackHeader;
  const Bytes& bytes = sample_stack();
  for (size_t i = 0; i < offsetof(Stack, reserved); ++i) {
    CHECK(!stack_taken(with(bytes, i, static_cast<uint8_t>(bytes[i] ^ 1))));
  }
  for (const uint32_t count : {0u, 1u, 2u, 4u, 8u, 9u, 0xffffffffu}) {
    CHECK(!stack_taken(with(bytes, offsetof(Stack, count), count)));
  }
  const size_t own = kHeaderBytes + offsetof(Header, bytes);  // the first weight's
  for (const uint64_t size : {uint64_t{0}, uint64_t{63}, uint64_t{64}, ~uint64_t{0}, ~uint64_t{63}}) {
    CHECK(!stack_taken(with(bytes, own, size)));
  }
}

TEST(random_damage_to_a_stack) {
  Random random(41);
  for (int i = 0; i < 20'000; ++i) {
    Bytes bytes = sample_stack();
    for (int64_t n = 1 + random.below(3); n > 0; --n) {
      const auto at = static_cast<size_t>(random.below(static_cast<int64_t>(bytes.size())));
      bytes[at] = static_cast<uint8_t>(random.next());
    }
    stack_taken(bytes);
  }
}

TEST(sound_weights_are_taken) {
  for (const Bytes& bytes : samples()) CHECK(taken(bytes));
}

TEST(truncated_at_each_length) {
  for (const Bytes& bytes : samples()) {
    for (size_t n = 0; n < bytes.size(); ++n) {
      const Exact exact(bytes.data(), n);
      PackedWeight w;
      if (!lowbit::view(exact.data.get(), n, &w).empty()) continue;
      return check::fail(__FILE__, __LINE__, "taken at " + std::to_string(n) + " bytes");
    }
    Bytes longer = bytes;
    longer.push_back(0);
    CHECK(!taken(longer));
  }
}

TEST(each_field_altered) {
  for (const Bytes& bytes : samples()) {
    for (size_t i = 0; i < offsetof(Header, kind); ++i) {  // magic, version
      CHECK(!taken(with(bytes, i, static_cast<uint8_t>(bytes[i] ^ 1))));
    }
    const auto kind = field<uint32_t>(bytes, offsetof(Header, kind));
    for (const uint32_t other : {0u, 1u, 2u, 3u, 4u, 255u, 0xffffffffu}) {
      const bool twins = kind >= 2 && (other == 2 || other == 3);  // both have 16 bits
      CHECK_EQ(taken(with(bytes, offsetof(Header, kind), other)), other == kind || twins);
    }
    const bool integer = kind == 0;
    const auto bits = field<uint32_t>(bytes, offsetof(Header, bits));
    for (const uint32_t other :
         {0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 16u, 32u, 64u, 0xffffffffu}) {
      CHECK(taken(with(bytes, offsetof(Header, bits), other)) == (other == bits) || integer);
    }
    const auto size = field<uint32_t>(bytes, offsetof(Header, group_size));
    for (const uint32_t other :
         {0u, 1u, 8u, 15u, 17u, 24u, 65536u, 65552u, 1u << 31, 0xfffffff0u, 0xffffffffu}) {
      CHECK_EQ(taken(with(bytes, offsetof(Header, group_size), other)), other == size);
    }
    const auto zeros = field<uint32_t>(bytes, offsetof(Header, zeros));
    for (const uint32_t other : {3u, 4u, 0xffffffffu}) {
      CHECK_EQ(taken(with(bytes, offsetof(Header, zeros), other)), other == zeros);
    }
    const auto scales = field<uint32_t>(bytes, offsetof(Header, scales));
    for (const uint32_t other : {0u, 1u, 2u, 0xffffffffu}) {
      CHECK_EQ(taken(with(bytes, offsetof(Header, scales), other)), other == scales);
    }
    CHECK(!taken(with(bytes, offsetof(Header, version), 2 - scales)));
    if (zeros == 3) {
      for (const uint32_t other : {1u, 2u, 3u}) {  // versions that know no zero between
        CHECK(!taken(with(bytes, offsetof(Header, version), other)));
      }
      CHECK(!taken(with(bytes, offsetof(Header, bits), 2u)));
    }
    if (scales == 1) CHECK(!taken(with(bytes, offsetof(Header, zeros), 2u)));  // real ones
    for (const int32_t other : {-127, 128, INT32_MIN, INT32_MAX}) {
      CHECK(!taken(with(bytes, offsetof(Header, scale_exponent), other)));
    }
    for (const int32_t other : {-126, 127}) {
      CHECK(taken(with(bytes, offsetof(Header, scale_exponent), other)));
    }
    for (const uint64_t other : {uint64_t{0}, uint64_t{16}, uint64_t{33}, uint64_t{1} << 31,
                                 uint64_t{1} << 32, uint64_t{1} << 63, ~uint64_t{0}}) {
      CHECK(!taken(with(bytes, offsetof(Header, rows), other)));
      CHECK(!taken(with(bytes, offsetof(Header, columns), other * 64)));
      CHECK(!taken(with(bytes, offsetof(Header, bytes), other)));
    }
  }
}

// Rows, columns and bytes whose products pass 2^64, with the size that the header then claims.
TEST(sizes_that_overflow) {
  const uint64_t large[] = {(uint64_t{1} << 31) - 1,  uint64_t{1} << 30, uint64_t{1} << 28,
                            (uint64_t{1} << 31) - 32, uint64_t{1} << 33, uint64_t{1} << 60};
  for (const Bytes& bytes : samples()) {
    for (const uint64_t rows : large) {
      for (const uint64_t columns : large) {
        const Bytes shaped =
            with(with(bytes, offsetof(Header, rows), rows), offsetof(Header, columns), columns);
        CHECK(!taken(shaped));
        for (const uint32_t group_size : {16u, 65536u, 1u << 31, 0xfffffff0u}) {
          CHECK(!taken(with(shaped, offsetof(Header, group_size), group_size)));
        }
      }
    }
  }
}

TEST(random_headers) {
  Random random(35);
  const int rounds = 100'000;
  int n_taken = 0;
  for (int i = 0; i < rounds; ++i) {
    Bytes bytes =
        samples()[static_cast<size_t>(random.below(static_cast<int64_t>(samples().size())))];
    if (i % 4 == 0) {  // all behind the version
      for (size_t k = offsetof(Header, kind); k < kHeaderBytes; ++k) {
        bytes[k] = static_cast<uint8_t>(random.next());
      }
    } else {  // a few bytes, mostly by a few bits
      for (int64_t n = 1 + random.below(3); n > 0; --n) {
        const auto at = static_cast<size_t>(12 + random.below(52));
        bytes[at] = static_cast<uint8_t>(random.below(2) == 0 ? bytes[at] ^ 1 << random.below(8)
                                                              : random.below(64));
      }
    }
    n_taken += taken(bytes, 50) ? 1 : 0;
  }
  CHECK(n_taken > rounds / 100);  // so that something was used
}

// Scales, zeros and sums may be anything, as infinity and NaN.
TEST(random_contents) {
  Random random(36);
  for (const Bytes& sample : samples()) {
    for (int i = 0; i < 10; ++i) {
      Bytes bytes = sample;
      for (size_t k = kHeaderBytes; k < bytes.size(); ++k)
        bytes[k] = static_cast<uint8_t>(random.next());
      CHECK(taken(bytes));
    }
  }
}

KERNEL_TEST_MAIN()
