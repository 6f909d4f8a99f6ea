// Packing and unpacking: what goes in comes out.

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "kernels/layout.h"
#include "tests/cpp/check.h"
#include "tests/cpp/kernel_data.h"

using namespace kernel_test;

namespace {

struct Shape {
  int64_t rows, columns;
};
constexpr Shape kShapes[] = {{1, 1}, {1, 576}, {17, 16}, {17, 31}, {37, 100}, {37, 160}, {16, 576}};

std::vector<float> unpacked(const PackedWeight& w) {
  auto values = unwritten(w.rows * w.columns);
  lowbit::unpack(w, values.data());
  return values;
}

// Packs one row of `n` zero values with these scales and zeros, groups of 16.
std::vector<uint8_t> pack_row(int64_t n, std::vector<float> scales, std::vector<float> zeros = {},
                              Zeros kind = Zeros::integer, std::vector<uint8_t> values = {},
                              Scales stored = Scales::float16) {
  const Format format{Kind::integer, 4, 16, zeros.empty() ? Zeros::none : kind, stored};
  std::vector<uint8_t> bytes(lowbit::packed_size(format, 1, n));
  values.resize(static_cast<size_t>(n));
  lowbit::pack_integer(format, 1, n, values.data(), scales.data(),
                       zeros.empty() ? nullptr : zeros.data(), bytes.data());
  return bytes;
}

std::vector<uint8_t> pack_float(const Format& format, const std::vector<float>& values) {
  std::vector<uint8_t> bytes(lowbit::packed_size(format, 1, static_cast<int64_t>(values.size())));
  lowbit::pack_float(format, 1, static_cast<int64_t>(values.size()), values.data(), bytes.data());
  return bytes;
}

std::vector<float> round_trip(Kind kind, const std::vector<float>& values) {
  const auto bytes = pack_float({kind, kind == Kind::float32 ? 32u : 16u, 0, Zeros::none}, values);
  PackedWeight w;
  CHECK_EQ(lowbit::view(bytes.data(), bytes.size(), &w), "");
  return unpacked(w);
}

}  // namespace

TEST(integers_come_out_as_they_went_in) {
  Random random(31);
  for (const Shape shape : kShapes) {
    for_each_format(shape.columns, [&](const Format& format) {
      const Weight w = random_weight(random, format, shape.rows, shape.columns);
      const auto values = unpacked(w.packed);
      for (int64_t i = 0; i < shape.rows * shape.columns; ++i) {
        const double expected = w.weight(i / shape.columns, i % shape.columns);
        if (values[static_cast<size_t>(i)] == expected) continue;
        return check::fail(__FILE__, __LINE__,
                           describe(format, shape.rows, shape.columns) + ": " + std::to_string(i) +
                               " is " + std::to_string(values[static_cast<size_t>(i)]));
      }
      std::vector<float> row(static_cast<size_t>(shape.columns));
      lowbit::unpack_row(w.packed, shape.rows - 1, row.data());
      const int64_t last = (shape.rows - 1) * shape.columns;
      CHECK(same_bits(row.data(), &values[static_cast<size_t>(last)], shape.columns));
    });
  }
}

// Scales are float16 with one exponent for the whole weight: 2^-11 of each, for scales within 2^27
// of the largest.
TEST(scales_of_any_size_keep_eleven_bits) {
  Random random(32);
  const Format format{Kind::integer, 5, 32, Zeros::integer};
  constexpr int64_t kRows = 17, kColumns = 100, kGroups = 4;
  for (const int exponent : {0, -20, -100, 100, 60}) {
    Weight w = random_weight(random, format, kRows, kColumns);
    for (float& s : w.scales) {
      const float digits = std::fabs(random.value()) + 0x1p-8f;
      s = std::ldexp(digits, exponent - static_cast<int>(random.below(15)));
    }
    lowbit::pack_integer(format, kRows, kColumns, w.values.data(), w.scales.data(), w.zeros.data(),
                         w.bytes.data());
    CHECK_EQ(lowbit::view(w.bytes.data(), w.bytes.size(), &w.packed), "");
    const auto values = unpacked(w.packed);
    Worst worst;
    for (int64_t i = 0; i < kRows * kColumns; ++i) {
      const double expected = w.weight(i / kColumns, i % kColumns);
      worst.see(i, values[static_cast<size_t>(i)], expected, std::fabs(expected) * 0x1p-11);
    }
    CHECK(worst.share <= 1);
    CHECK_EQ(w.scales.size(), static_cast<size_t>(kRows * kGroups));
  }
}

// int8 scales are within half a 127th of the row's largest, whatever the other rows' are.
TEST(scales_in_steps_of_their_row) {
  Random random(37);
  const Format format{Kind::integer, 5, 32, Zeros::none, Scales::int8};
  constexpr int64_t kRows = 17, kColumns = 100;
  Weight w = random_weight(random, format, kRows, kColumns);
  std::vector<float> largest(kRows);
  for (int64_t n = 0; n < kRows; ++n) {
    for (int64_t g = 0; g < w.groups; ++g) {
      float& s = w.scales[w.at(n, g)];
      s = std::ldexp(random.value(), -static_cast<int>(n));
      largest[static_cast<size_t>(n)] = std::max(largest[static_cast<size_t>(n)], std::fabs(s));
    }
  }
  lowbit::pack_integer(format, kRows, kColumns, w.values.data(), w.scales.data(), nullptr,
                       w.bytes.data());
  CHECK_EQ(lowbit::view(w.bytes.data(), w.bytes.size(), &w.packed), "");
  const auto values = unpacked(w.packed);
  Worst worst;
  for (int64_t i = 0; i < kRows * kColumns; ++i) {
    const int64_t n = i / kColumns, k = i % kColumns;
    // Half a step, and a step that is 2^-11 of itself off 127 times.
    const double bound = largest[static_cast<size_t>(n)] * (0.5 / 127 + 0x1p-11);
    worst.see(i, values[static_cast<size_t>(i)], w.weight(n, k),
              std::abs(w.centred(n, k)) * bound + 1e-30);
  }
  CHECK(worst.share <= 1);
  CHECK(worst.share > 0.1);  // the bound is of the right size
}

TEST(scales_at_the_ends_of_float) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  constexpr float kSmallest = std::numeric_limits<float>::denorm_min();
  for (const Scales stored : {Scales::float16, Scales::int8}) {
    for (const float scale : {0.0f, kSmallest, 1e-40f, 1e-38f, 1e38f, kLargest, -2.5f}) {
      const auto bytes = pack_row(16, {scale}, {}, Zeros::none, {8, 9, 7}, stored);
      PackedWeight w;
      CHECK_EQ(lowbit::view(bytes.data(), bytes.size(), &w), "");
      const auto values = unpacked(w);
      CHECK_EQ(values[0], 0.0f);
      // A 127th of what is near float's smallest has fewer bits than 11, down to none.
      const float least = stored == Scales::int8 ? 64 * kSmallest : 0;
      CHECK(std::fabs(values[1] - scale) <= std::fabs(scale) * 0x1p-11f + least ||
            scale == kLargest);
      CHECK_EQ(values[2], -values[1]);
    }
  }
}

TEST(floats_of_each_kind) {
  Random random(33);
  for (const Shape shape : kShapes) {
    for (const Kind kind : {Kind::float32, Kind::float16, Kind::bfloat16}) {
      const Format format{kind, kind == Kind::float32 ? 32u : 16u, 0, Zeros::none};
      const auto values = random.values(shape.rows * shape.columns);
      std::vector<uint8_t> bytes(lowbit::packed_size(format, shape.rows, shape.columns));
      lowbit::pack_float(format, shape.rows, shape.columns, values.data(), bytes.data());
      PackedWeight w;
      CHECK_EQ(lowbit::view(bytes.data(), bytes.size(), &w), "");
      const auto out = unpacked(w);
      const double relative = kind == Kind::float32 ? 0 : kind == Kind::float16 ? 0x1p-11 : 0x1p-8;
      Worst worst;
      for (size_t i = 0; i < out.size(); ++i) {
        worst.see(static_cast<int64_t>(i), out[i], values[i],
                  std::fabs(values[i]) * relative + 0x1p-25);
      }
      if (worst.share > 1)
        check::fail(__FILE__, __LINE__, describe(format, shape.rows, shape.columns));
    }
  }
}

TEST(bfloat16_rounds_to_nearest_ties_to_even) {
  const std::vector<float> in = {1 + 0x1p-8f, 1 + 3 * 0x1p-8f, 1 + 0x1.02p-8f, -1 - 0x1p-9f,
                                 0x1.ffp127f, INFINITY,        -0.0f,          0x1p-140f};
  const std::vector<float> out = {1,        1 + 4 * 0x1p-8f, 1 + 0x1p-7f, -1,
                                  INFINITY, INFINITY,        -0.0f,       0};
  const auto result = round_trip(Kind::bfloat16, in);
  for (size_t i = 0; i + 1 < in.size(); ++i) CHECK(same_bits(&result[i], &out[i], 1));
  CHECK(std::fabs(result.back() - in.back()) <= 0x1p-134f);  // subnormals have 2^-133
  CHECK(std::isnan(round_trip(Kind::bfloat16, {std::bit_cast<float>(0x7f800001u)})[0]));
}

TEST(every_float16_survives) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = lowbit::half_to_float(half);
    const bool nan = (bits & 0x7fff) > 0x7c00;
    if (nan ? std::isnan(value) : lowbit::float_to_half(value) == half) continue;
    return check::fail(__FILE__, __LINE__, "float16 " + std::to_string(bits));
  }
  CHECK_EQ(lowbit::half_to_float(0x3c01), 1 + 0x1p-10f);
  CHECK_EQ(lowbit::half_to_float(0x8001), -0x1p-24f);
}

// Between two float16 the middle goes to the even one, all else to the nearer.
TEST(float16_rounds_to_nearest_ties_to_even) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
    const double below = lowbit::half_to_float(low);
    const double above = bits == 0x7bff ? 65536 : lowbit::half_to_float(high);
    const auto middle = static_cast<float>((below + above) / 2);
    const bool right = lowbit::float_to_half(middle) == (bits % 2 == 0 ? low : high) &&
                       lowbit::float_to_half(std::nextafter(middle, 0.0f)) == low &&
                       lowbit::float_to_half(std::nextafter(middle, INFINITY)) == high &&
                       lowbit::float_to_half(-middle) == (bits % 2 == 0 ? low : high) + 0x8000;
    if (!right) return check::fail(__FILE__, __LINE__, "float16 " + std::to_string(bits));
  }
}

// The levels -scale and +scale exactly, of a subnormal scale too, and the row's sum of them.
TEST(one_bit_with_the_zero_between) {
  constexpr int64_t kColumns = 40;
  for (const Scales stored : {Scales::float16, Scales::int8}) {
    const Format format{Kind::integer, 1, 16, Zeros::between, stored};
    CHECK_EQ(lowbit::layout_version(format), 4u);
    const std::vector<float> scales = {0.75f, 0x1p-20f, -0.375f};  // the second 0 in steps of the row
    std::vector<uint8_t> values(kColumns), bytes(lowbit::packed_size(format, 1, kColumns));
    for (size_t k = 0; k < values.size(); ++k) values[k] = k % 3 == 0;
    lowbit::pack_integer(format, 1, kColumns, values.data(), scales.data(), nullptr, bytes.data());
    lowbit::PackedWeight w;
    CHECK_EQ(lowbit::view(bytes.data(), bytes.size(), &w), "");
    std::vector<float> unpacked(kColumns);
    lowbit::unpack(w, unpacked.data());
    double sum = 0;
    for (size_t k = 0; k < values.size(); ++k) {
      const bool tiny = k / 16 == 1 && stored == Scales::int8;
      const float scale = tiny ? 0 : scales[k / 16];
      if (stored == Scales::float16 || tiny) {
        CHECK_EQ(unpacked[k], values[k] ? scale : -scale);
      } else {
        CHECK(std::fabs(unpacked[k] - (values[k] ? scale : -scale)) <= 0.75f / 127);
        CHECK_EQ(unpacked[k] > 0, (values[k] != 0) == (scale > 0));
      }
      sum += unpacked[k];
    }
    if (stored == Scales::int8) continue;
    float row_sum;
    std::memcpy(&row_sum, w.panel(0), sizeof(row_sum));
    CHECK_EQ(row_sum * w.scale, static_cast<float>(sum));
  }
}

TEST(unfit_formats_are_named) {
  const auto size = [](Kind kind, uint32_t bits, uint32_t group_size, uint32_t zeros,
                       uint32_t scales = 0) {
    return lowbit::packed_size(
        {kind, bits, group_size, static_cast<Zeros>(zeros), static_cast<Scales>(scales)}, 4, 4);
  };
  CHECK_THROWS(std::invalid_argument, size(Kind::integer, 0, 32, 0), "bits is 0");
  CHECK_THROWS(std::invalid_argument, size(Kind::integer, 9, 32, 0), "bits is 9");
  CHECK_THROWS(std::invalid_argument, size(Kind::integer, 4, 0, 0), "group size is 0");
  CHECK_THROWS(std::invalid_argument, size(Kind::integer, 4, 40, 0), "group size is 40");
  CHECK_THROWS(std::invalid_argument, size(Kind::integer, 4, 0xfffffff0, 0), "4294967280");
  CHECK_THROWS(std::invalid_argument, size(Kind::integer, 4, 32, 3), "levels of 4 bits, not of 1");
  CHECK_THROWS(std::invalid_argument, size(Kind::integer, 1, 32, 4), "zeros is 4");
  CHECK_THROWS(std::invalid_argument, size(Kind::integer, 4, 32, 0, 2), "scales is 2");
  CHECK_THROWS(std::invalid_argument, size(Kind::integer, 4, 32, 2, 1), "real zeros");
  CHECK_THROWS(std::invalid_argument, size(Kind::float16, 16, 0, 0, 1), "int8 scales");
  CHECK_THROWS(std::invalid_argument, size(Kind::float16, 32, 0, 0), "bits is 32");
  CHECK_THROWS(std::invalid_argument, size(Kind::float32, 32, 16, 0), "groups");
  CHECK_THROWS(std::invalid_argument, size(static_cast<Kind>(4), 16, 0, 0), "kind is 4");
  for (const int64_t wrong : {int64_t{0}, int64_t{-1}, int64_t{1} << 31, INT64_MAX, INT64_MIN}) {
    CHECK_THROWS(std::invalid_argument, lowbit::packed_size({}, wrong, 4),
                 "[" + std::to_string(wrong));
    CHECK_THROWS(std::invalid_argument, lowbit::packed_size({}, 4, wrong),
                 std::to_string(wrong) + "]");
  }
}

TEST(unfit_contents_are_named) {
  CHECK_THROWS(std::invalid_argument, pack_row(20, {1, 1}, {}, Zeros::none, {3, 16}),
               "value 16 does not fit in 4 bits");
  CHECK_THROWS(std::invalid_argument, pack_row(20, {1, NAN}), "scale 1 is not finite");
  CHECK_THROWS(std::invalid_argument, pack_row(20, {INFINITY, 1}), "scale 0 is not finite");
  CHECK_THROWS(std::invalid_argument, pack_row(20, {1, 1}, {3, 16}), "zero 16");
  CHECK_THROWS(std::invalid_argument, pack_row(20, {1, 1}, {-1, 3}), "zero -1");
  CHECK_THROWS(std::invalid_argument, pack_row(20, {1, 1}, {3, 2.5}), "zero 2.5");
  CHECK_THROWS(std::invalid_argument, pack_row(20, {1, 1}, {3, NAN}), "zero nan");
  CHECK_THROWS(std::invalid_argument, pack_row(20, {1, 1}, {3, INFINITY}), "zero inf");
  CHECK_THROWS(std::invalid_argument, pack_row(20, {1, 1}, {3, NAN}, Zeros::real),
               "zero 1 is not finite");
  uint8_t value = 0, out[1024];
  const float one = 1;
  CHECK_THROWS(
      std::invalid_argument,
      lowbit::pack_integer({Kind::integer, 4, 16, Zeros::none}, 1, 1, &value, &one, &one, out),
      "zeros");
  CHECK_THROWS(
      std::invalid_argument,
      lowbit::pack_integer({Kind::integer, 4, 16, Zeros::real}, 1, 1, &value, &one, nullptr, out),
      "zeros");
  CHECK_THROWS(std::invalid_argument, pack_float({Kind::integer, 4, 16, Zeros::none}, {1}),
               "float kind");
}

namespace {

// A weight of each width, of `rows` rows, as one stack.
std::vector<uint8_t> stack_of(const std::vector<Weight>& weights) {
  std::vector<std::span<const uint8_t>> parts;
  for (const Weight& w : weights) parts.emplace_back(w.bytes);
  return stacked(parts);
}

}  // namespace

TEST(a_stack_is_its_weights) {
  Random random(38);
  std::vector<Weight> weights;
  for (const uint32_t bits : {7u, 5u, 2u}) {
    weights.push_back(random_weight(random, {Kind::integer, bits, 32, Zeros::none}, 16 + bits, 100));
  }
  const auto bytes = stack_of(weights);
  lowbit::PackedStack stack;
  CHECK_EQ(stack.view(bytes.data(), bytes.size()), "");
  CHECK_EQ(stack.rows(), int64_t{3 * 16 + 14});
  CHECK_EQ(stack.columns(), int64_t{100});
  CHECK_EQ(stack.weights().size(), weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const PackedWeight& w = stack.weights()[i];
    CHECK_EQ(w.format.bits, weights[i].format.bits);
    CHECK_EQ(w.output_stride, stack.rows());
    const auto values = unpacked(w), expected = unpacked(weights[i].packed);
    CHECK(same_bits(values.data(), expected.data(), static_cast<int64_t>(values.size())));
  }
  // One weight is a stack of one.
  CHECK_EQ(stack.view(weights[0].bytes.data(), weights[0].bytes.size()), "");
  CHECK_EQ(stack.weights().size(), size_t{1});
  CHECK_EQ(stack.rows(), weights[0].rows);
  PackedWeight one;
  CHECK(lowbit::view(bytes.data(), bytes.size(), &one) != "");
}

TEST(what_cannot_be_stacked) {
  Random random(39);
  const Format format{Kind::integer, 4, 32, Zeros::none};
  const Weight w = random_weight(random, format, 16, 64);
  CHECK_THROWS(std::invalid_argument, stack_of({w, random_weight(random, format, 16, 96)}),
               "64 and 96 columns");
  CHECK_THROWS(std::invalid_argument, stack_of({}), "0 packed weights");
  CHECK_THROWS(std::invalid_argument, stack_of({w}), "1 packed weights, not 2 to 8");
  CHECK_THROWS(std::invalid_argument, stack_of(std::vector<Weight>(9, w)), "9 packed weights");
  const auto bytes = stack_of({w, w});
  CHECK_THROWS(std::invalid_argument, stacked({bytes, bytes}), "LOWBITW");
}

CHECK_MAIN()
