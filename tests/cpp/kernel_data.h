#pragma once

// What the kernels' tests feed to them: the same numbers on every machine, packed weights whose
// contents are known exactly, and a host without threads that shows what reads too far.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/layout.h"
#include "kernels/lowbit.h"

namespace kernel_test {

using lowbit::Format;
using lowbit::Kind;
using lowbit::PackedWeight;
using lowbit::Scales;
using lowbit::Zeros;

// Half the distance between 1 and the next float: what one rounding changes, relatively.
inline constexpr double kUnit = 0x1p-24;

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;  // everything takes ten times as long
#else
inline constexpr bool kSanitized = false;
#endif

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {  // splitmix64
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  // Nearly normal: the sum of four uniform numbers, within -4..4, exact.
  float value() {
    int64_t total = -2 * 65535;
    for (int i = 0; i < 4; ++i) total += below(65536);
    return static_cast<float>(total) * 0x1p-15f;
  }
  std::vector<float> values(int64_t n, float scale = 1) {
    std::vector<float> result(static_cast<size_t>(n));
    for (float& x : result) x = value() * scale;
    return result;
  }

 private:
  uint64_t state_;
};

// One thread, parts of exactly the grain, and scratch memory of exactly the size asked for, filled
// with NaN.
class SerialHost final : public lowbit::Host {
 public:
  void parallel_for(int64_t n, int64_t grain, void (*task)(void*, int64_t, int64_t),
                    void* context) override {
    for (int64_t i = 0; i < n; i += grain) task(context, i, i + grain < n ? i + grain : n);
  }
  void* scratch(size_t bytes) override {
    memory_.reset(static_cast<uint8_t*>(::operator new(bytes, std::align_val_t{64})));
    std::memset(memory_.get(), 0xff, bytes);
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<uint8_t, Free> memory_;
};

inline std::vector<float> unwritten(int64_t n) {
  return std::vector<float>(static_cast<size_t>(n), std::numeric_limits<float>::quiet_NaN());
}

// A matrix [N, K] of packed integers. Scales and zeros are small multiples of 2^-12, which float16
// holds exactly, and int8 scales up to 127 such steps of their row: weight (n, k) is
// centred(n, k) scale(n, g) + offset(n, g), without rounding.
struct Weight {
  Format format;
  int64_t rows, columns, groups;
  std::vector<uint8_t> values;       // [N, K], unsigned
  std::vector<float> scales, zeros;  // [N, G]
  std::vector<uint8_t> bytes;
  PackedWeight packed;

  int group(int64_t k) const { return static_cast<int>(k / format.group_size); }
  size_t at(int64_t n, int64_t g) const { return static_cast<size_t>(n * groups + g); }
  int middle() const { return 1 << (format.bits - 1); }
  int centred(int64_t n, int64_t k) const {
    return values[static_cast<size_t>(n * columns + k)] - middle();
  }
  double scale(int64_t n, int64_t g) const {
    return format.zeros == Zeros::between ? 2.0 * scales[at(n, g)] : scales[at(n, g)];
  }
  double offset(int64_t n, int64_t g) const {
    if (format.zeros == Zeros::none) return 0;
    if (format.zeros == Zeros::real) return zeros[at(n, g)];
    if (format.zeros == Zeros::between) return scales[at(n, g)];
    return (middle() - zeros[at(n, g)]) * scale(n, g);
  }
  double weight(int64_t n, int64_t k) const {
    return centred(n, k) * scale(n, group(k)) + offset(n, group(k));
  }
};

inline Weight random_weight(Random& random, const Format& format, int64_t rows, int64_t columns) {
  Weight w{format, rows, columns, (columns - 1) / format.group_size + 1, {}, {}, {}, {}, {}};
  w.values.resize(static_cast<size_t>(rows * columns));
  w.scales.resize(static_cast<size_t>(rows * w.groups));
  for (uint8_t& u : w.values) u = static_cast<uint8_t>(random.next() & ((1u << format.bits) - 1));
  for (float& s : w.scales) s = static_cast<float>(1 + random.below(1024)) * 0x1p-12f;
  if (format.scales == Scales::int8) {
    for (int64_t n = 0; n < rows; ++n) {
      const float step = static_cast<float>(1 + random.below(16)) * 0x1p-12f;
      for (int64_t g = 0; g < w.groups; ++g) {
        w.scales[w.at(n, g)] = static_cast<float>(random.below(255) - 127) * step;
      }
      w.scales[w.at(n, random.below(static_cast<int>(w.groups)))] = 127 * step;
    }
  }
  const bool stored_zeros = format.zeros == Zeros::integer || format.zeros == Zeros::real;
  if (stored_zeros) w.zeros.resize(w.scales.size());
  for (float& z : w.zeros) {
    z = format.zeros == Zeros::integer ? static_cast<float>(random.below(1 << format.bits))
                                       : static_cast<float>(random.below(2048) - 1024) * 0x1p-12f;
  }
  w.bytes.resize(lowbit::packed_size(format, rows, columns));
  lowbit::pack_integer(format, rows, columns, w.values.data(), w.scales.data(),
                       w.zeros.empty() ? nullptr : w.zeros.data(), w.bytes.data());
  const std::string error = lowbit::view(w.bytes.data(), w.bytes.size(), &w.packed);
  if (!error.empty()) throw std::runtime_error(error);
  return w;
}

inline std::vector<uint8_t> stacked(const std::vector<std::span<const uint8_t>>& weights) {
  std::vector<uint8_t> bytes(lowbit::stack_size(weights));
  lowbit::pack_stack(weights, bytes.data());
  return bytes;
}

// Every format of packed integers for a width of `columns`; the last group size is channelwise.
template <typename F>
void for_each_format(int64_t columns, F f) {
  const auto channelwise = static_cast<uint32_t>((columns + 15) / 16 * 16);
  for (uint32_t bits = 1; bits <= 8; ++bits) {
    for (uint32_t group_size : {16u, 32u, 48u, 64u, 128u, channelwise}) {
      for (Zeros zeros : {Zeros::none, Zeros::integer, Zeros::real}) {
        f(Format{Kind::integer, bits, group_size, zeros});
        if (zeros != Zeros::real) f(Format{Kind::integer, bits, group_size, zeros, Scales::int8});
      }
      if (bits > 1) continue;
      for (Scales scales : {Scales::float16, Scales::int8}) {
        f(Format{Kind::integer, bits, group_size, Zeros::between, scales});
      }
    }
  }
}

inline std::string describe(const Format& f, int64_t rows, int64_t columns) {
  const char* kinds[] = {"integer", "float32", "float16", "bfloat16"};
  const char* zeros[] = {"none", "integer", "real", "between"};
  return std::string(kinds[static_cast<int>(f.kind)]) + " of " + std::to_string(f.bits) +
         " bits, groups of " + std::to_string(f.group_size) + ", zeros " +
         zeros[static_cast<int>(f.zeros)] + (f.scales == Scales::int8 ? ", int8 scales" : "") +
         ", [" + std::to_string(rows) + ", " +
         std::to_string(columns) + "]";
}

// What gate_mul does, less what attention alone asks of it.
inline constexpr std::pair<lowbit::Activation, const char*> kActivations[] = {
    {lowbit::Activation::silu, "silu_mul"},
    {lowbit::Activation::gelu_tanh, "gelu_tanh_mul"},
    {lowbit::Activation::gelu, "gelu_mul"},
    {lowbit::Activation::relu2, "relu2_mul"},
    {lowbit::Activation::quick_gelu, "quick_gelu_mul"}};
inline constexpr lowbit::Xielu kXielu{0.8f, 1.1f, 0.5f, -1e-6f};

// The largest error seen, as a share of what is allowed.
struct Worst {
  double share = 0;
  int64_t at = -1;
  void see(int64_t index, double actual, double wanted, double bound) {
    const double error = std::fabs(actual - wanted);
    const double now = error == 0 ? 0 : error / bound;
    if (!(now <= share)) share = std::isnan(now) ? HUGE_VAL : now, at = index;
  }
};

inline bool same_bits(const float* a, const float* b, int64_t n) {
  return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), static_cast<int64_t>(a.size()));
}

}  // namespace kernel_test
