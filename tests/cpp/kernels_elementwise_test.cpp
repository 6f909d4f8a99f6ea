// Norms, activations, add and tanh against double precision.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/impl/exp.h"
#include "kernels/lowbit.h"
#include "kernels/simd/scalar.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;
using lowbit::Activation;

namespace {

constexpr int64_t kTokens = 3;
constexpr int64_t kWidths[] = {1, 15, 16, 17, 31, 64, 100, 576, 2048};

void check_worst(const Worst& worst, const char* what, int64_t width) {
  if (worst.share <= 1) return;
  check::fail(__FILE__, __LINE__,
              std::string(what) + " of width " + std::to_string(width) + ": off by " +
                  std::to_string(worst.share) + " bounds at " + std::to_string(worst.at));
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// sigmoid is computed from e = exp(-x), whose relative error is below 2e-7 (impl/exp.h) plus |x|
// times that of its argument, `argument`; e is part e / (1 + e) of the divisor. The sum, the
// quotient and the products with x and `up` round 4 times. Beyond +-87 x counts as that, where
// sigmoid is below 2e-38.
double gate_bound(double x, double up, double argument_of_exp, double argument) {
  const double s = sigmoid(argument_of_exp);
  const double of_exp = (1 - s) * (2e-7 + std::fabs(argument_of_exp) * argument);
  return std::fabs(x * up) * (s * (of_exp + 5 * kUnit) + 2e-38);
}

// Gates that sweep -100..100, and random ones.
std::vector<float> gates(Random& random, int64_t width) {
  auto x = random.values(2 * kTokens * width);
  for (int64_t i = 0; i < width; ++i) {
    x[static_cast<size_t>(i)] = static_cast<float>(i) * 200 / static_cast<float>(width) - 100;
    x[static_cast<size_t>(4 * width + i)] *= 8;
  }
  return x;
}

template <typename Argument>
void check_gate(Activation gate, const char* what, double argument_error, Argument argument) {
  Random random(8);
  Hash hash;
  SerialHost host;
  for (const int64_t width : kWidths) {
    const auto x = gates(random, width);
    auto out = unwritten(kTokens * width);
    lowbit::gate_mul(host, gate, x.data(), kTokens, width, 0, 0, out.data());
    Worst worst;
    for (int64_t i = 0; i < kTokens * width; ++i) {
      const double g = x[static_cast<size_t>(i / width * 2 * width + i % width)];
      const double up = x[static_cast<size_t>(i / width * 2 * width + width + i % width)];
      const double a = argument(g);
      worst.see(i, out[static_cast<size_t>(i)], g * sigmoid(a) * up,
                gate_bound(g, up, a, argument_error));
    }
    check_worst(worst, what, width);
    hash.add(out);
  }
  report(what, hash);
}

}  // namespace

TEST(silu) {
  check_gate(Activation::silu, "silu_mul", 0, [](double x) { return x; });
}

// gelu's argument is a sum of two terms of one sign: 3 roundings for x^3 and its factor, one for
// the sum, 2 for the factor in front and the product with it.
TEST(gelu_tanh) {
  check_gate(Activation::gelu_tanh, "gelu_tanh_mul", 6 * kUnit,
             [](double x) { return 2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); });
}

// The argument's factor and its product round once each.
TEST(quick_gelu) {
  check_gate(Activation::quick_gelu, "quick_gelu_mul", 2 * kUnit, [](double x) { return 1.702 * x; });
}

TEST(an_offset_of_up) {
  SerialHost host;
  const float gate_up[] = {0.5f, 9, 1.5f, -9};
  float out[2];
  lowbit::gate_mul(host, Activation::quick_gelu, gate_up, 1, 2, 7, 1, out);
  CHECK(std::fabs(out[0] - 0.5 * sigmoid(0.851) * 2.5) < 1e-6);
  CHECK(std::fabs(out[1] - 7 * sigmoid(11.914) * -6) < 1e-5);
}

TEST(both_forms_of_gelu) {
  SerialHost host;
  const float gate_up[] = {1, 1};
  float out = 0;
  lowbit::gate_mul(host, Activation::gelu_tanh, gate_up, 1, 1, 0, 0, &out);
  CHECK(std::fabs(out - 0.8411919906) < 1e-6);
  lowbit::gate_mul(host, Activation::gelu, gate_up, 1, 1, 0, 0, &out);
  CHECK(std::fabs(out - 0.8413447461) < 1e-6);
}

// The fit is off by 2e-8; exp's relative error, 2e-7 and x^2 / 2 times its argument's two
// roundings, counts by |x| exp(-x^2 / 2) / 2, at most 0.31, x^2 times that at most 0.6; the rest
// are 3 roundings of the result and those of t and P.
TEST(gelu) {
  Random random(43);
  Hash hash;
  SerialHost host;
  double largest = 0;
  for (const int64_t width : kWidths) {
    auto x = gates(random, width);
    for (int64_t i = 0; i < width; ++i) {
      x[static_cast<size_t>(2 * width + i)] =
          static_cast<float>(i) * 12 / static_cast<float>(width) - 6;
    }
    auto out = unwritten(kTokens * width);
    lowbit::gate_mul(host, Activation::gelu, x.data(), kTokens, width, 0, 0, out.data());
    Worst worst;
    for (int64_t i = 0; i < kTokens * width; ++i) {
      const double g = x[static_cast<size_t>(i / width * 2 * width + i % width)];
      const double up = x[static_cast<size_t>(i / width * 2 * width + width + i % width)];
      const double y = g / 2 * std::erfc(-g / std::sqrt(2.0)) * up;
      worst.see(i, out[static_cast<size_t>(i)], y, std::fabs(up) * 3e-7 + 4 * kUnit * std::fabs(y));
      if (std::fabs(g) < 6 && up != 0) {
        largest = std::max(
            largest, std::fabs(out[static_cast<size_t>(i)] - y) / std::max(1.0, std::fabs(up)));
      }
    }
    check_worst(worst, "gelu_mul", width);
    hash.add(out);
  }
  CHECK(largest < 1e-6);
  report("gelu_mul", hash);
}

// The definition's own, whose bits all others have: numbers of every size up to 128, and infinity.
TEST(tanh_of_all_sizes) {
  constexpr uint32_t kStep = 1009, kInfinity = 0x7f800000;
  bool within = true;
  for (uint32_t first = 0; first < 0x43000000; first += 16 * kStep) {
    lowbit::Scalar::F32 x;
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t bits = i == 0 && first == 0 ? kInfinity : first + i * kStep;
      std::memcpy(&x.v[i], &bits, sizeof(bits));
      if (i % 2 == 1) x.v[i] = -x.v[i];
    }
    const auto y = lowbit::tanh<lowbit::Scalar>(x);
    for (int i = 0; i < 16; ++i) {
      const double wanted = std::tanh(double{x.v[i]});
      within &= std::fabs(y.v[i] - wanted) < 5e-7 * std::fabs(wanted);
    }
  }
  CHECK(within);
  const auto zero = lowbit::tanh<lowbit::Scalar>(lowbit::Scalar::set(-0.0f));
  CHECK(zero.v[0] == 0 && std::signbit(zero.v[0]));
}

TEST(squared_relu) {
  Random random(44);
  Hash hash;
  SerialHost host;
  for (const int64_t width : kWidths) {
    const auto x = gates(random, width);
    auto out = unwritten(kTokens * width);
    lowbit::gate_mul(host, Activation::relu2, x.data(), kTokens, width, 0, 0, out.data());
    Worst worst;
    for (int64_t i = 0; i < kTokens * width; ++i) {
      const double g = x[static_cast<size_t>(i / width * 2 * width + i % width)];
      const double up = x[static_cast<size_t>(i / width * 2 * width + width + i % width)];
      const double y = g > 0 ? g * g * up : 0;
      worst.see(i, out[static_cast<size_t>(i)], y, 2.1 * kUnit * std::fabs(y));
    }
    check_worst(worst, "relu2_mul", width);
    hash.add(out);
  }
  report("relu2_mul", hash);
}

// A limit gives the bits of what was cut before.
TEST(limited_gates) {
  Random random(45);
  SerialHost host;
  constexpr int64_t kWidth = 100;
  constexpr float kLimit = 0.75f;
  const auto x = gates(random, kWidth);
  auto cut = x;
  for (size_t i = 0; i < cut.size(); ++i) {
    const bool up = i / kWidth % 2 == 1;
    cut[i] = std::min(cut[i], kLimit);
    if (up) cut[i] = std::max(cut[i], -kLimit);
  }
  CHECK(cut != x);
  for (const auto& [activation, name] : kActivations) {
    auto out = unwritten(kTokens * kWidth), expected = out;
    lowbit::gate_mul(host, activation, x.data(), kTokens, kWidth, kLimit, 0, out.data());
    lowbit::gate_mul(host, activation, cut.data(), kTokens, kWidth, 0, 0, expected.data());
    if (!same_bits(out, expected)) check::fail(__FILE__, __LINE__, name);
  }
}

// The squares are added in 16 lanes and a tree of 4 levels: width / 16 + 4 roundings, then those of
// the mean and of eps; the square root halves them all. Its own, the reciprocal's and two products'
// are 4 more.
TEST(rms_norm) {
  Random random(9);
  Hash hash;
  SerialHost host;
  for (const int64_t width : kWidths) {
    for (const float scale : {1.0f, 1e-6f, 1e6f}) {
      const auto x = random.values(kTokens * width, scale), weight = random.values(width);
      auto out = unwritten(kTokens * width);
      lowbit::rms_norm(host, x.data(), kTokens, width, weight.data(), 1e-5f, out.data());
      Worst worst;
      for (int64_t i = 0; i < kTokens * width; ++i) {
        double squares = 0;
        const float* row = &x[static_cast<size_t>(i / width * width)];
        for (int64_t k = 0; k < width; ++k) squares += double{row[k]} * row[k];
        const double norm = std::sqrt(squares / static_cast<double>(width) + double{1e-5f});
        const double y = row[i % width] / norm * weight[static_cast<size_t>(i % width)];
        const double roundings = (static_cast<double>(width) / 16 + 7) / 2 + 4;
        worst.see(i, out[static_cast<size_t>(i)], y, roundings * kUnit * std::fabs(y));
      }
      check_worst(worst, "rms_norm", width);
      hash.add(out);
    }
  }
  report("rms_norm", hash);
}

TEST(rms_norm_in_place) {
  Random random(10);
  SerialHost host;
  auto x = random.values(kTokens * 100);
  const auto weight = random.values(100);
  auto out = unwritten(kTokens * 100);
  lowbit::rms_norm(host, x.data(), kTokens, 100, weight.data(), 1e-5f, out.data());
  lowbit::rms_norm(host, x.data(), kTokens, 100, weight.data(), 1e-5f, x.data());
  CHECK(same_bits(x, out));
}

// Two passes of sums as rms_norm's. The mean is off by width / 16 + 5 roundings of the mean magnitude,
// and so is each difference; of their squares' root that is the same part.
TEST(layer_norm) {
  Random random(46);
  Hash hash;
  SerialHost host;
  for (const int64_t width : kWidths) {
    for (const auto& [scale, shift] : {std::pair{1.0f, 0.0f}, {1e-6f, 0.0f}, {1e6f, 0.0f}, {1.0f, 3.0f}}) {
      auto x = random.values(kTokens * width, scale);
      for (float& one : x) one += shift;
      const auto weight = random.values(width), bias = random.values(width);
      for (const float* added : {static_cast<const float*>(nullptr), bias.data()}) {
        auto out = unwritten(kTokens * width);
        lowbit::layer_norm(host, x.data(), kTokens, width, weight.data(), added, 1e-5f, out.data());
        Worst worst;
        for (int64_t i = 0; i < kTokens * width; ++i) {
          double mean = 0, magnitude = 0, squares = 0;
          const float* row = &x[static_cast<size_t>(i / width * width)];
          for (int64_t k = 0; k < width; ++k) mean += row[k], magnitude += std::fabs(row[k]);
          mean /= static_cast<double>(width);
          magnitude /= static_cast<double>(width);
          for (int64_t k = 0; k < width; ++k) squares += (row[k] - mean) * (row[k] - mean);
          const double norm = std::sqrt(squares / static_cast<double>(width) + double{1e-5f});
          const double w = weight[static_cast<size_t>(i % width)];
          const double b = added == nullptr ? 0 : added[i % width];
          const double y = (row[i % width] - mean) / norm * w;
          const double sums = static_cast<double>(width) / 16 + 5;
          const double of_mean = (sums * magnitude + std::fabs(row[i % width])) / norm * std::fabs(w);
          worst.see(i, out[static_cast<size_t>(i)], y + b,
                    kUnit * (2 * of_mean + (sums / 2 + 6) * std::fabs(y) + std::fabs(y + b)));
        }
        check_worst(worst, "layer_norm", width);
        hash.add(out);
      }
    }
  }
  report("layer_norm", hash);
}

TEST(layer_norm_in_place) {
  Random random(47);
  SerialHost host;
  auto x = random.values(kTokens * 100);
  const auto weight = random.values(100), bias = random.values(100);
  auto out = unwritten(kTokens * 100);
  lowbit::layer_norm(host, x.data(), kTokens, 100, weight.data(), bias.data(), 1e-5f, out.data());
  lowbit::layer_norm(host, x.data(), kTokens, 100, weight.data(), bias.data(), 1e-5f, x.data());
  CHECK(same_bits(x, out));
}

// An activation alone has the bits of one whose second factor is 1.
TEST(activations_without_a_gate) {
  Random random(48);
  SerialHost host;
  for (const int64_t width : kWidths) {
    auto x = gates(random, width);
    for (int64_t i = 0; i < 2 * kTokens * width; ++i) {
      if (i / width % 2 == 1) x[static_cast<size_t>(i)] = 1;
    }
    for (const auto& [activation, name] : kActivations) {
      auto expected = unwritten(kTokens * width), out = expected;
      lowbit::gate_mul(host, activation, x.data(), kTokens, width, 0, 0, expected.data());
      for (int64_t t = 0; t < kTokens; ++t) {
        lowbit::activate(host, activation, &x[static_cast<size_t>(2 * t * width)], width,
                         &out[static_cast<size_t>(t * width)]);
      }
      if (!same_bits(out, expected)) check::fail(__FILE__, __LINE__, name);
    }
  }
}

// Numbers of every size up to 64. exp(e) - 1 - e is off by 6e-7 of itself, what it is added to and the
// products round 4 times; the smallest numbers round by half a step of them all, 2^-150, each time.
TEST(xielu) {
  constexpr uint32_t kStep = 4099;
  std::vector<float> x;
  for (uint32_t bits = 0; bits < 0x42800000; bits += kStep) {
    float one;
    std::memcpy(&one, &bits, sizeof(one));
    x.push_back(x.size() % 3 == 0 ? one : -one);
  }
  const auto n = static_cast<int64_t>(x.size());
  Hash hash;
  SerialHost host;
  const auto& p = kXielu;
  auto out = unwritten(n);
  lowbit::xielu(host, x.data(), n, p, out.data());
  Worst worst;
  for (int64_t i = 0; i < n; ++i) {
    const double v = x[static_cast<size_t>(i)], e = std::min(v, double{p.eps});
    const double curve = std::expm1(e) - v, line = p.beta * v;
    const double bent = v > 0 ? p.alpha_p * v * v : p.alpha_n * curve;
    const double rounded = v > 0 ? bent : p.alpha_n * (std::fabs(std::expm1(e) - e) + std::fabs(e - v));
    worst.see(i, out[static_cast<size_t>(i)], bent + line,
              (6e-7 + 4 * kUnit) * std::fabs(rounded) + 3 * kUnit * std::fabs(line) + 0x1p-148);
  }
  check_worst(worst, "xielu", n);
  hash.add(out);
  report("xielu", hash);
}

TEST(sums_are_rounded_once) {
  Random random(11);
  Hash hash;
  SerialHost host;
  for (const int64_t n : {1, 15, 16, 17, 1000, 50000}) {
    const auto a = random.values(n), b = random.values(n, 1e-3f);
    auto out = unwritten(n);
    lowbit::add(host, a.data(), b.data(), n, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      if (out[i] != static_cast<float>(double{a[i]} + b[i])) {
        check::fail(__FILE__, __LINE__, "sum " + std::to_string(i) + " of " + std::to_string(n));
        break;
      }
    }
    hash.add(out);
  }
  report("add", hash);
}

TEST(softcap) {
  Random random(12);
  Hash hash;
  SerialHost host;
  for (const float cap : {0.5f, 30.0f}) {
    for (const int64_t n : {1, 15, 16, 17, 1000, 50000}) {
      auto x = random.values(n, 60.0f);
      x[0] = 0.0f;
      auto out = unwritten(n);
      lowbit::softcap(host, x.data(), n, cap, out.data());
      Worst worst;
      for (int64_t i = 0; i < n; ++i) {
        const double y = cap * std::tanh(double{x[static_cast<size_t>(i)]} / cap);
        worst.see(i, out[static_cast<size_t>(i)], y, 1e-6 * std::fabs(y));
      }
      check_worst(worst, "softcap", n);
      hash.add(out);
    }
  }
  report("softcap", hash);
}

KERNEL_TEST_MAIN()
