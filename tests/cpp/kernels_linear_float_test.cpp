// linear_wx, linear_fp and embedding against double precision.

#include <bit>
#include <cmath>

#include "kernels/lowbit.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;

namespace {

constexpr int64_t kTokens = 17;

struct Shape {
  int64_t rows, columns;
};

// One output is a sum of K products and, where groups have zeros, of G products more. Added in any
// order, each term meets at most K + G additions, and a few multiplications: with the activation,
// the group's scale (with zeros: a product itself), the common exponent; then the bias is added.
// Fused operations round less often.
double rounding(int64_t columns, int64_t groups, double magnitude) {
  return static_cast<double>(columns + groups + 8) * kUnit * magnitude;
}

using Linear = void (*)(lowbit::Host&, const float*, int64_t, const PackedWeight&, const float*,
                        float*);

std::vector<float> run(Linear linear, const std::vector<float>& x, int64_t tokens,
                       const PackedWeight& w, const float* bias) {
  SerialHost host;
  const std::vector<float> exactly(x.begin(), x.begin() + tokens * w.columns);
  auto out = unwritten(tokens * w.rows);
  linear(host, exactly.data(), tokens, w, bias, out.data());
  return out;
}

// `weights` [N, K] is what the packed bytes hold; `abs_weights` the sum of the magnitudes that make
// up each.
void check_linear(Linear linear, Random& random, const PackedWeight& w,
                  const std::vector<double>& weights, const std::vector<double>& abs_weights,
                  Hash& hash) {
  const auto x = random.values(kTokens * w.columns);
  const auto bias = random.values(w.rows);
  const float* with_bias = random.below(2) == 0 ? bias.data() : nullptr;
  const auto out = run(linear, x, kTokens, w, with_bias);
  Worst worst;
  for (int64_t i = 0; i < kTokens * w.rows; ++i) {
    const int64_t t = i / w.rows, n = i % w.rows;
    double y = with_bias ? bias[static_cast<size_t>(n)] : 0, magnitude = std::fabs(y);
    for (int64_t k = 0; k < w.columns; ++k) {
      const double a = x[static_cast<size_t>(t * w.columns + k)];
      y += weights[static_cast<size_t>(n * w.columns + k)] * a;
      magnitude += abs_weights[static_cast<size_t>(n * w.columns + k)] * std::fabs(a);
    }
    worst.see(i, out[static_cast<size_t>(i)], y, rounding(w.columns, w.groups, magnitude));
  }
  const std::string what = describe(w.format, w.rows, w.columns);
  if (worst.share > 1) {
    check::fail(__FILE__, __LINE__,
                what + ": off by " + std::to_string(worst.share) + " bounds at " +
                    std::to_string(worst.at));
  }
  for (int64_t tokens : {1, 2, 3, 4, 5, 12, 13}) {
    const auto part = run(linear, x, tokens, w, with_bias);
    if (!same_bits(part.data(), out.data(), tokens * w.rows)) {
      check::fail(__FILE__, __LINE__,
                  what + ": other bits in " + std::to_string(tokens) + " tokens");
    }
  }
  hash.add(out);
}

// Float weights of 8 significant bits, which all three kinds hold exactly.
struct FloatWeight {
  std::vector<float> values;
  std::vector<uint8_t> bytes;
  PackedWeight packed;
};

FloatWeight float_weight(Random& random, Kind kind, Shape shape) {
  FloatWeight w;
  const Format format{kind, kind == Kind::float32 ? 32u : 16u, 0, Zeros::none};
  w.values.resize(static_cast<size_t>(shape.rows * shape.columns));
  for (float& x : w.values) {
    const auto digits = static_cast<float>(random.below(256) - 128);
    x = std::ldexp(digits, -static_cast<int>(random.below(10)));
  }
  w.bytes.resize(lowbit::packed_size(format, shape.rows, shape.columns));
  lowbit::pack_float(format, shape.rows, shape.columns, w.values.data(), w.bytes.data());
  CHECK_EQ(lowbit::view(w.bytes.data(), w.bytes.size(), &w.packed), "");
  return w;
}

constexpr Kind kFloatKinds[] = {Kind::float32, Kind::float16, Kind::bfloat16};

}  // namespace

TEST(packed_integers_with_float_activations) {
  Random random(3);
  Hash hash;
  for (const Shape shape : {Shape{1, 1}, Shape{1, 160}, Shape{16, 16}, Shape{17, 31},
                            Shape{33, 100}, Shape{70, 64}, Shape{3, 576}}) {
    for_each_format(shape.columns, [&](const Format& format) {
      if ((format.bits != 4 && format.bits != 8) || format.scales == Scales::int8) return;
      if (kSanitized && shape.columns == 576 && format.group_size % 48 != 0) return;
      const Weight w = random_weight(random, format, shape.rows, shape.columns);
      std::vector<double> weights, abs_weights;
      for (int64_t n = 0; n < shape.rows; ++n) {
        for (int64_t k = 0; k < shape.columns; ++k) {
          weights.push_back(w.weight(n, k));
          abs_weights.push_back(std::abs(w.centred(n, k)) * w.scale(n, w.group(k)) +
                                std::fabs(w.offset(n, w.group(k))));
        }
      }
      check_linear(lowbit::linear_wx, random, w.packed, weights, abs_weights, hash);
    });
  }
  report("linear_wx", hash);
}

TEST(float_weights) {
  Random random(4);
  Hash hash;
  for (const Shape shape : {Shape{1, 1}, Shape{1, 160}, Shape{16, 16}, Shape{17, 31},
                            Shape{33, 257}, Shape{140, 100}, Shape{37, 576}}) {
    for (const Kind kind : kFloatKinds) {
      const FloatWeight w = float_weight(random, kind, shape);
      const std::vector<double> weights(w.values.begin(), w.values.end());
      auto abs_weights = weights;
      for (double& x : abs_weights) x = std::fabs(x);
      check_linear(lowbit::linear_fp, random, w.packed, weights, abs_weights, hash);
    }
  }
  report("linear_fp", hash);
}

TEST(a_512_token_prompt) {
  Random random(5);
  constexpr int64_t kRows = 37, kColumns = 100, kMany = 512;
  const auto check = [&](Linear linear, const PackedWeight& w) {
    const auto x = random.values(kMany * kColumns);
    const auto out = run(linear, x, kMany, w, nullptr);
    for (int64_t t = 0; t < kMany; t += 7) {
      const std::vector<float> one(x.begin() + t * kColumns, x.begin() + (t + 1) * kColumns);
      const auto alone = run(linear, one, 1, w, nullptr);
      if (same_bits(alone.data(), &out[static_cast<size_t>(t * kRows)], kRows)) continue;
      return check::fail(
          __FILE__, __LINE__,
          describe(w.format, kRows, kColumns) + ": other bits in token " + std::to_string(t));
    }
  };
  for (const Kind kind : kFloatKinds) {
    check(lowbit::linear_fp, float_weight(random, kind, {kRows, kColumns}).packed);
  }
  for (const uint32_t bits : {4u, 8u}) {
    const Format format{Kind::integer, bits, 32, Zeros::integer};
    check(lowbit::linear_wx, random_weight(random, format, kRows, kColumns).packed);
  }
}

// A table's rows are its weights, exactly: the scales of these have few digits.
TEST(embedding_rows) {
  Random random(6);
  Hash hash;
  SerialHost host;
  constexpr int64_t kRows = 37, kColumns = 100;
  const std::vector<int64_t> tokens = {36, 0, 15, 16, 17, 31, 32, 0};
  const auto n_tokens = static_cast<int64_t>(tokens.size());
  for_each_format(kColumns, [&](const Format& format) {
    const Weight w = random_weight(random, format, kRows, kColumns);
    auto out = unwritten(n_tokens * kColumns);
    CHECK(lowbit::embedding(host, tokens.data(), n_tokens, w.packed, out.data()));
    bool right = true;
    for (int64_t i = 0; i < n_tokens * kColumns; ++i) {
      right &= out[static_cast<size_t>(i)] ==
               w.weight(tokens[static_cast<size_t>(i / kColumns)], i % kColumns);
    }
    if (!right) check::fail(__FILE__, __LINE__, describe(format, kRows, kColumns));
    hash.add(out);
  });
  for (const Kind kind : kFloatKinds) {
    const FloatWeight w = float_weight(random, kind, {kRows, kColumns});
    auto out = unwritten(n_tokens * kColumns);
    CHECK(lowbit::embedding(host, tokens.data(), n_tokens, w.packed, out.data()));
    for (int64_t t = 0; t < n_tokens; ++t) {
      const float* row = &w.values[static_cast<size_t>(tokens[static_cast<size_t>(t)] * kColumns)];
      CHECK(same_bits(&out[static_cast<size_t>(t * kColumns)], row, kColumns));
    }
    hash.add(out);
    auto scaled = unwritten(n_tokens * kColumns);
    CHECK(lowbit::embedding(host, tokens.data(), n_tokens, std::span(&w.packed, 1), 33.3f,
                            scaled.data()));
    for (size_t i = 0; i < out.size(); ++i) out[i] *= 33.3f;
    CHECK(same_bits(scaled, out));
  }
  report("embedding", hash);
}

TEST(a_token_that_is_no_row_writes_nothing) {
  Random random(7);
  SerialHost host;
  const Weight w = random_weight(random, {Kind::integer, 4, 32, Zeros::none}, 17, 32);
  for (const int64_t wrong : {int64_t{17}, int64_t{-1}, int64_t{31}, INT64_MAX, INT64_MIN}) {
    const int64_t tokens[] = {3, wrong};
    std::vector<float> out(64, 7.0f);
    CHECK(!lowbit::embedding(host, tokens, 2, w.packed, out.data()));
    CHECK(out == std::vector<float>(64, 7.0f));
  }
}

KERNEL_TEST_MAIN()
