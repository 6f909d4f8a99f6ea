// linear_a8wx against double precision, in two steps: the quantized computation, where only float
// rounding remains, and the product of what was not quantized.

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/lowbit.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;
using lowbit::ActivationScales;

namespace {

constexpr int64_t kTokens = 20;

// Activations as the operator's definition has them: x is about step (q - zero).
struct Quantized {
  std::vector<int> values;    // [T, K], q - zero
  std::vector<double> steps;  // [T, G]
  std::vector<int> zeros;     // [T]
};

// Symmetric over each group: 127 stands for the largest magnitude.
void quantize_group(const float* x, int64_t n, int* values, double& step) {
  float largest = 0;
  for (int64_t k = 0; k < n; ++k) largest = std::max(largest, std::fabs(x[k]));
  step = largest / 127.0f;
  const float scale = largest > 0 ? 127.0f / largest : 0;
  for (int64_t k = 0; k < n; ++k) values[k] = static_cast<int>(std::nearbyint(x[k] * scale));
}

// Asymmetric over the token, in a range that holds 0, with a step of at least float32's epsilon:
// torchao's Int8DynamicActivation.
void quantize_token(const float* x, int64_t n, int* values, double& step, int& zero) {
  const float low = std::min(0.0f, *std::min_element(x, x + n));
  const float high = std::max(0.0f, *std::max_element(x, x + n));
  const float s = std::max((high - low) / 255.0f, std::numeric_limits<float>::epsilon());
  zero = std::clamp(-128 - static_cast<int>(std::nearbyint(low / s)), -128, 127);
  step = s;
  for (int64_t k = 0; k < n; ++k) {
    const int q = static_cast<int>(std::nearbyint(x[k] * (1.0f / s))) + zero;
    values[k] = std::clamp(q, -128, 127) - zero;
  }
}

Quantized quantize(const std::vector<float>& x, const Weight& w, ActivationScales kind) {
  Quantized q{std::vector<int>(x.size()),
              std::vector<double>(static_cast<size_t>(kTokens * w.groups)),
              std::vector<int>(kTokens)};
  for (int64_t t = 0; t < kTokens; ++t) {
    const float* from = &x[static_cast<size_t>(t * w.columns)];
    int* to = &q.values[static_cast<size_t>(t * w.columns)];
    double* steps = &q.steps[static_cast<size_t>(t * w.groups)];
    if (kind == ActivationScales::token) {
      quantize_token(from, w.columns, to, steps[0], q.zeros[static_cast<size_t>(t)]);
      std::fill(steps, steps + w.groups, steps[0]);
      continue;
    }
    for (int64_t g = 0; g < w.groups; ++g) {
      const int64_t begin = g * w.format.group_size;
      const int64_t n = std::min<int64_t>(w.format.group_size, w.columns - begin);
      quantize_group(from + begin, n, to + begin, steps[g]);
    }
  }
  return q;
}

// For one output: the quantized product and the sum of its terms' magnitudes; the product of what
// was not quantized and how far quantization may move it.
struct Expected {
  double quantized = 0, magnitude = 0, exact = 0, shift = 0;
};

// Rounding to the nearest step moves a value by at most half a step, and by what the float
// operations on it add: at most 255 * 3 roundings of relative size 2^-24, below 0.001 steps.
constexpr double kHalfStep = 0.501;

Expected expect(const std::vector<float>& x, const Quantized& q, const Weight& w, int64_t t,
                int64_t n) {
  Expected e;
  const int zero = std::abs(q.zeros[static_cast<size_t>(t)]);
  const float* from = &x[static_cast<size_t>(t * w.columns)];
  const int* values = &q.values[static_cast<size_t>(t * w.columns)];
  const uint8_t* weights = &w.values[static_cast<size_t>(n * w.columns)];
  for (int64_t g = 0; g < w.groups; ++g) {
    const int64_t begin = g * w.format.group_size;
    const int64_t end = std::min<int64_t>(begin + w.format.group_size, w.columns);
    const double scale = w.scale(n, g), offset = w.offset(n, g);
    int products = 0, sum = 0, abs_products = 0, abs_sum = 0;
    double exact = 0, abs_weights = 0;
    for (int64_t k = begin; k < end; ++k) {
      const int c = weights[k] - w.middle(), a = std::abs(values[k]) + 2 * zero;
      products += c * values[k];
      sum += values[k];
      abs_products += std::abs(c) * a;
      abs_sum += a;
      const double weight = c * scale + offset;
      exact += weight * from[k];
      abs_weights += std::fabs(weight);
    }
    const double step = q.steps[static_cast<size_t>(t * w.groups + g)];
    e.quantized += step * (scale * products + offset * sum);
    e.magnitude += step * (std::fabs(scale) * abs_products + std::fabs(offset) * abs_sum);
    e.exact += exact;
    e.shift += kHalfStep * step * abs_weights;
  }
  return e;
}

// Integer sums are exact. In float, a group's sum is converted, multiplied by a scale that is a
// product, and added: 2 + 1 roundings, and so for what its zeros add; the zero point times the
// row's stored sum is one term more, or the product with the row's step one rounding. All are added
// in some order, with at most 2 G additions, then multiplied by the token's scale, itself a product,
// and the bias is added. A rounding changes at
// most one of the terms, or a sum of them, by kUnit. The terms' magnitudes count a token's zero
// point twice, for operators that add and subtract it.
double rounding(const Weight& w, const Expected& e, double bias) {
  return (2 * static_cast<double>(w.groups) + 8) * kUnit * (e.magnitude + std::fabs(bias));
}

// Tokens that are unlike: zeros, tiny, huge, of one sign, a group of zeros.
std::vector<float> activations(Random& random, int64_t columns) {
  auto x = random.values(kTokens * columns);
  for (int64_t k = 0; k < columns; ++k) {
    const auto at = [&](int64_t t) -> float& { return x[static_cast<size_t>(t * columns + k)]; };
    at(3) = 0;
    at(5) *= 0x1p-90f;
    at(7) *= 0x1p66f;
    at(8) = std::fabs(at(8)) + 1;
    at(9) = -std::fabs(at(9)) - 1;
    if (k < 32) at(11) = 0;
  }
  return x;
}

std::vector<float> run(const std::vector<float>& x, int64_t tokens, const Weight& w,
                       ActivationScales kind, const float* bias) {
  SerialHost host;
  const std::vector<float> exactly(x.begin(), x.begin() + tokens * w.columns);
  auto out = unwritten(tokens * w.rows);
  lowbit::linear_a8wx(host, exactly.data(), tokens, w.packed, kind, bias, out.data());
  return out;
}

void check_weight(Random& random, const Weight& w, ActivationScales kind, Hash& hash) {
  const auto x = activations(random, w.columns);
  const auto bias = random.values(w.rows);
  const float* with_bias = random.below(2) == 0 ? bias.data() : nullptr;
  const auto out = run(x, kTokens, w, kind, with_bias);
  const Quantized q = quantize(x, w, kind);
  Worst quantized, exact;
  for (int64_t i = 0; i < kTokens * w.rows; ++i) {
    const int64_t t = i / w.rows, n = i % w.rows;
    const Expected e = expect(x, q, w, t, n);
    const double b = with_bias ? bias[static_cast<size_t>(n)] : 0;
    const double y = out[static_cast<size_t>(i)], bound = rounding(w, e, b);
    quantized.see(i, y, e.quantized + b, bound);
    exact.see(i, y, e.exact + b, bound + e.shift);
  }
  const std::string what = describe(w.format, w.rows, w.columns);
  if (quantized.share > 1) {
    check::fail(__FILE__, __LINE__,
                what + ": the quantized product is off by " + std::to_string(quantized.share) +
                    " bounds at " + std::to_string(quantized.at));
  }
  if (exact.share > 1) {
    check::fail(__FILE__, __LINE__,
                what + ": the product is off by " + std::to_string(exact.share) + " bounds at " +
                    std::to_string(exact.at));
  }
  for (int64_t tokens : {1, 2, 3, 4, 5, 12, 13}) {
    const auto part = run(x, tokens, w, kind, with_bias);
    if (!same_bits(part.data(), out.data(), tokens * w.rows)) {
      check::fail(__FILE__, __LINE__,
                  what + ": other bits in " + std::to_string(tokens) + " tokens");
    }
  }
  hash.add(out);
}

void check_all(ActivationScales kind, const char* name) {
  Random random(1);
  Hash hash;
  struct Shape {
    int64_t rows, columns;
  };
  for (const Shape& shape : {Shape{1, 1}, Shape{1, 160}, Shape{16, 16}, Shape{17, 31},
                             Shape{33, 100}, Shape{70, 64}, Shape{3, 576}}) {
    for_each_format(shape.columns, [&](const Format& format) {
      if (kind == ActivationScales::token && format.scales == Scales::int8) return;
      if (kSanitized && shape.columns == 576 && format.group_size % 48 != 0) return;
      check_weight(random, random_weight(random, format, shape.rows, shape.columns), kind, hash);
    });
  }
  report(name, hash);
}

// Any number of tokens gives what each of them gives alone, whatever tiles they are cut into.
void check_every_number(Random& random, const Format& format, ActivationScales kind) {
  constexpr int64_t kRows = 70, kColumns = 100;
  const Weight w = random_weight(random, format, kRows, kColumns);
  const auto x = activations(random, kColumns);
  std::vector<float> alone;
  for (int64_t t = 0; t < kTokens; ++t) {
    const auto from = x.begin() + t * kColumns;
    const auto out = run({from, from + kColumns}, 1, w, kind, nullptr);
    alone.insert(alone.end(), out.begin(), out.end());
  }
  for (int64_t tokens = 1; tokens <= kTokens; ++tokens) {
    const auto out = run(x, tokens, w, kind, nullptr);
    if (same_bits(out.data(), alone.data(), tokens * kRows)) continue;
    check::fail(__FILE__, __LINE__,
                describe(format, kRows, kColumns) + ": other bits in " + std::to_string(tokens) +
                    " tokens than in one");
  }
}

void check_every_number(ActivationScales kind) {
  Random random(4);
  for (uint32_t bits = 1; bits <= 8; ++bits) {
    for (const uint32_t group_size : {16u, 32u, 64u}) {
      for (const Zeros zeros : {Zeros::none, Zeros::integer, Zeros::real}) {
        check_every_number(random, {Kind::integer, bits, group_size, zeros}, kind);
      }
    }
  }
  check_every_number(random, {Kind::integer, 1, 32, Zeros::between}, kind);
}

// The largest and smallest activations times the largest weights, whose sums must not overflow.
void check_extremes() {
  constexpr int64_t kRows = 16, kColumns = 64;
  for (uint32_t bits = 1; bits <= 8; ++bits) {
    const Format format{Kind::integer, bits, 32, Zeros::integer};
    const auto largest = static_cast<uint8_t>((1 << bits) - 1);
    const std::vector<uint8_t> values(kRows * kColumns, largest);
    const std::vector<float> scales(kRows * kColumns / 32, 1), zeros(scales.size(), 0);
    std::vector<uint8_t> bytes(lowbit::packed_size(format, kRows, kColumns));
    lowbit::pack_integer(format, kRows, kColumns, values.data(), scales.data(), zeros.data(),
                         bytes.data());
    PackedWeight packed;
    CHECK_EQ(lowbit::view(bytes.data(), bytes.size(), &packed), "");
    for (const float sign : {1.0f, -1.0f}) {
      for (const int64_t tokens : {1, 2, 4, 12}) {
        SerialHost host;
        for (const auto kind : {ActivationScales::group, ActivationScales::token}) {
          // With a scale a token: -128 of a zero point 127, or 127 of -128.
          const float each = kind == ActivationScales::group ? 127 * sign : 255 * sign;
          const std::vector<float> x(static_cast<size_t>(tokens * kColumns), each);
          auto out = unwritten(tokens * kRows);
          lowbit::linear_a8wx(host, x.data(), tokens, packed, kind, nullptr, out.data());
          const float expected = each * static_cast<float>(largest * kColumns);
          for (const float y : out) CHECK_EQ(y, expected);
        }
      }
    }
  }
}

// A prompt that repeats a few tokens gives their results again, whatever tiles it is cut into.
void check_prompt(Random& random, const Format& format, int64_t rows, int64_t columns,
                  int64_t tokens, ActivationScales kind) {
  const Weight w = random_weight(random, format, rows, columns);
  const auto x = activations(random, columns);
  const auto some = run(x, kTokens, w, kind, nullptr);
  std::vector<float> many;
  for (int64_t t = 0; t < tokens; ++t) {
    const auto from = x.begin() + t % kTokens * columns;
    many.insert(many.end(), from, from + columns);
  }
  const auto out = run(many, tokens, w, kind, nullptr);
  for (int64_t t = 0; t < tokens; ++t) {
    const float* expected = &some[static_cast<size_t>(t % kTokens * rows)];
    if (same_bits(&out[static_cast<size_t>(t * rows)], expected, rows)) continue;
    return check::fail(__FILE__, __LINE__,
                       describe(format, rows, columns) + ": other bits in token " +
                           std::to_string(t) + " of " + std::to_string(tokens));
  }
}

void check_prompts(ActivationScales kind) {
  Random random(2);
  for (uint32_t bits = 1; bits <= 8; ++bits) {
    for (const uint32_t group_size : {32u, 48u}) {
      check_prompt(random, {Kind::integer, bits, group_size, Zeros::integer}, 37, 100, 512, kind);
    }
    // Odd numbers of tiles of 16 tokens, and more than are taken at once.
    for (const int64_t tokens : {48, 273}) {
      for (const Zeros zeros : {Zeros::none, Zeros::integer, Zeros::real}) {
        check_prompt(random, {Kind::integer, bits, 64, zeros}, 35, 160, tokens, kind);
      }
      if (kind == ActivationScales::token) continue;
      for (const Zeros zeros : {Zeros::none, Zeros::integer}) {
        const Format format{Kind::integer, bits, 32, zeros, Scales::int8};
        check_prompt(random, format, 35, 160, tokens, kind);
      }
    }
  }
  for (const uint32_t group_size : {32u, 48u, 128u, 2048u}) {
    for (const Scales scales : {Scales::float16, Scales::int8}) {
      if (kind == ActivationScales::token && scales == Scales::int8) continue;
      const Format format{Kind::integer, 1, group_size, Zeros::between, scales};
      check_prompt(random, format, 35, 160, 273, kind);
    }
  }
  for (const uint32_t group_size : {1024u, 2048u, 4096u}) {
    check_prompt(random, {Kind::integer, 4, group_size, Zeros::integer}, 17, 2100, 33, kind);
  }
}

// Each weight of a stack gives the columns that it gives alone.
void check_stack(ActivationScales kind) {
  Random random(3);
  SerialHost host;
  constexpr int64_t kColumns = 100;
  for (const int64_t tokens : {1, 4, 13, 50}) {
    const auto x = random.values(tokens * kColumns);
    std::vector<Weight> weights;
    std::vector<std::span<const uint8_t>> parts;
    for (const auto& [bits, rows] : {std::pair{8u, 33}, {6u, 16}, {5u, 1}, {4u, 70}}) {
      const bool small = kind == ActivationScales::group && bits < 8;
      weights.push_back(random_weight(random,
                                      {Kind::integer, bits, bits == 6 ? 48u : 32u, Zeros::none,
                                       small ? Scales::int8 : Scales::float16},
                                      rows, kColumns));
    }
    for (const Weight& w : weights) parts.emplace_back(w.bytes);
    const auto bytes = stacked(parts);
    lowbit::PackedStack stack;
    CHECK_EQ(stack.view(bytes.data(), bytes.size()), "");
    auto out = unwritten(tokens * stack.rows());
    int64_t row = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      const int64_t rows = weights[i].rows;
      lowbit::linear_a8wx(host, x.data(), tokens, stack.weights()[i], kind, nullptr,
                          out.data() + row);
      const auto alone = run(x, tokens, weights[i], kind, nullptr);
      for (int64_t t = 0; t < tokens; ++t) {
        CHECK(same_bits(&out[static_cast<size_t>(t * stack.rows() + row)],
                        &alone[static_cast<size_t>(t * rows)], rows));
      }
      row += rows;
    }
  }
}

}  // namespace

TEST(stacks) {
  check_stack(ActivationScales::group);
  check_stack(ActivationScales::token);
}
TEST(every_number_of_tokens) {
  check_every_number(ActivationScales::group);
  check_every_number(ActivationScales::token);
}
TEST(extremes) { check_extremes(); }
TEST(with_a_scale_a_group) { check_all(ActivationScales::group, "linear_a8wx, group scales"); }
TEST(with_a_scale_a_token) { check_all(ActivationScales::token, "linear_a8wx, token scales"); }
TEST(prompts_with_a_scale_a_group) { check_prompts(ActivationScales::group); }
TEST(prompts_with_a_scale_a_token) { check_prompts(ActivationScales::token); }

KERNEL_TEST_MAIN()
