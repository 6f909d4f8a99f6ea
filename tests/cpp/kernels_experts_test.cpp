// Mixtures of experts: routes against double precision; each row as the linear operators compute it
// with its expert's matrix alone; the same bits on every number of threads and in every batch.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/lowbit.h"
#include "system/thread_pool.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;
using lowbit::ActivationScales;
using lowbit::ExpertRows;
using lowbit::Routes;

namespace {

struct Shape {
  int64_t tokens, experts, chosen;
};
constexpr Shape kShapes[] = {{1, 8, 2}, {3, 5, 5}, {1, 1, 1}, {40, 7, 2}, {9, 64, 8}, {5, 40, 17}};

std::vector<float> routed(lowbit::Host& host, const std::vector<float>& logits, const Shape& shape,
                          bool renormalize) {
  auto routes = unwritten(shape.tokens * 2 * shape.chosen);
  lowbit::route(host, logits.data(), shape.tokens, shape.experts, shape.chosen, renormalize,
                routes.data());
  return routes;
}

Routes view(const std::vector<float>& routes, const Shape& shape) {
  return {routes.data(), shape.tokens, shape.chosen};
}

// The experts of a row, in the order of their logits and, of equal ones, of their numbers.
std::vector<int64_t> by_logit(const float* logits, int64_t experts) {
  std::vector<int64_t> order(static_cast<size_t>(experts));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) { return logits[a] > logits[b]; });
  return order;
}

// A linear operator, and that of experts.
struct Operators {
  const char* name;
  Format format;
  void (*linear)(lowbit::Host&, const float* x, int64_t tokens, const PackedWeight&,
                 const float* bias, float* out);
  void (*experts)(lowbit::Host&, const float* x, const ExpertRows&, const PackedWeight&,
                  const float* bias, float* out);
};

template <ActivationScales scales>
void linear(lowbit::Host& host, const float* x, int64_t tokens, const PackedWeight& w,
            const float* bias, float* out) {
  lowbit::linear_a8wx(host, x, tokens, w, scales, bias, out);
}
template <ActivationScales scales>
void experts(lowbit::Host& host, const float* x, const ExpertRows& rows, const PackedWeight& w,
             const float* bias, float* out) {
  lowbit::experts_a8wx(host, x, rows, w, scales, bias, out);
}

const Operators kOperators[] = {
    {"a8wx, a scale a group", {Kind::integer, 4, 32, Zeros::none},
     linear<ActivationScales::group>, experts<ActivationScales::group>},
    {"a8wx, int8 scales", {Kind::integer, 3, 16, Zeros::integer, Scales::int8},
     linear<ActivationScales::group>, experts<ActivationScales::group>},
    {"a8wx, a scale a token", {Kind::integer, 8, 48, Zeros::integer},
     linear<ActivationScales::token>, experts<ActivationScales::token>},
    {"a8wx, two levels", {Kind::integer, 1, 32, Zeros::between}, linear<ActivationScales::group>,
     experts<ActivationScales::group>},
    {"wx", {Kind::integer, 4, 32, Zeros::real}, lowbit::linear_wx, lowbit::experts_wx},
    {"wx, no zeros", {Kind::integer, 8, 32, Zeros::none}, lowbit::linear_wx, lowbit::experts_wx},
    {"fp, float32", {Kind::float32, 32, 0, Zeros::none}, lowbit::linear_fp, lowbit::experts_fp},
    {"fp, bfloat16", {Kind::bfloat16, 16, 0, Zeros::none}, lowbit::linear_fp, lowbit::experts_fp},
};

constexpr int64_t kFeatures = 48, kColumns = 112;

std::vector<uint8_t> random_bytes(Random& random, const Format& format, int64_t rows) {
  if (format.kind == Kind::integer) return random_weight(random, format, rows, kColumns).bytes;
  std::vector<uint8_t> bytes(lowbit::packed_size(format, rows, kColumns));
  const auto values = random.values(rows * kColumns);
  lowbit::pack_float(format, rows, kColumns, values.data(), bytes.data());
  return bytes;
}

}  // namespace

// A factor is exp(x) / sum: exp's relative error is below 2e-7 and that of its argument's rounding,
// kUnit |x|, the sum's below 5e-6.
TEST(routes_are_the_softmax_of_the_largest) {
  Random random(51);
  SerialHost host;
  Hash hash;
  for (const Shape& shape : kShapes) {
    auto logits = random.values(shape.tokens * shape.experts);
    logits[0] = logits[static_cast<size_t>(shape.experts - 1)];  // equal ones
    for (const bool renormalize : {false, true}) {
      const auto routes = routed(host, logits, shape, renormalize);
      for (int64_t t = 0; t < shape.tokens; ++t) {
        const float* row = logits.data() + t * shape.experts;
        const float* route = routes.data() + 2 * t * shape.chosen;
        const auto order = by_logit(row, shape.experts);
        const int64_t counted = renormalize ? shape.chosen : shape.experts;
        double sum = 0, factors = 0;
        for (int64_t i = 0; i < counted; ++i) {
          sum += std::exp(static_cast<double>(row[order[static_cast<size_t>(i)]]));
        }
        for (int64_t i = 0; i < shape.chosen; ++i) {
          const int64_t expert = order[static_cast<size_t>(i)];
          CHECK_EQ(static_cast<int64_t>(route[i]), expert);
          const double expected = std::exp(static_cast<double>(row[expert])) / sum;
          CHECK(std::fabs(route[shape.chosen + i] - expected) < 6e-6 * expected);
          factors += static_cast<double>(route[shape.chosen + i]);
        }
        if (renormalize) CHECK(std::fabs(factors - 1) < 6e-6);
      }
      hash.add(routes);
    }
  }
  report("route", hash);
}

TEST(logits_that_order_nothing) {
  SerialHost host;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const Shape shape{1, 4, 2};
  for (const std::vector<float>& logits : std::vector<std::vector<float>>{
           {1, nan, 2, 3}, {1, infinity, 2, 3}, {-infinity, -infinity, -infinity, -infinity}}) {
    const auto routes = routed(host, logits, shape, true);
    CHECK(routes[0] == 0 && routes[1] == 1 && routes[2] != routes[2] && routes[3] != routes[3]);
  }
  const auto routes = routed(host, {-infinity, 2, -infinity, -infinity}, {1, 4, 3}, false);
  CHECK(routes[0] == 1 && routes[1] == 0 && routes[2] == 2);
  CHECK(routes[3] == 1 && routes[4] == 0 && routes[5] == 0);
}

TEST(numbers_that_are_no_experts) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  ExpertRows rows;
  for (const float number : {-1.0f, 4.0f, 0.5f, nan, 1e30f}) {
    const float routes[] = {number, 1};
    CHECK(!rows.count({routes, 1, 1}, 4));
  }
  const float routes[] = {3, 1, 0.5, 0.5};
  CHECK(rows.count({routes, 1, 2}, 4));
  CHECK(rows.total() == 2 && rows.size(1) == 1 && rows.size(2) == 0 && rows.begin(3) == 1);
}

// Each row has the bits of a linear layer of its expert, alone.
TEST(rows_are_linear_layers) {
  for (const Operators& operators : kOperators) {
    Random random(52);
    Hash hash;
    for (const Shape& shape : kShapes) {
      SerialHost host;
      const auto logits = random.values(shape.tokens * shape.experts);
      const auto routes = routed(host, logits, shape, true);
      ExpertRows rows;
      CHECK(rows.count(view(routes, shape), shape.experts));
      const int64_t total = shape.tokens * shape.chosen;
      CHECK_EQ(rows.total(), total);
      const auto x = random.values(shape.tokens * kColumns);
      auto dispatched = unwritten(total * kColumns);
      lowbit::dispatch(host, x.data(), kColumns, view(routes, shape), rows, dispatched.data());
      const auto bytes = random_bytes(random, operators.format, shape.experts * kFeatures);
      const auto bias = random.values(shape.experts * kFeatures);
      PackedWeight all;
      CHECK_EQ(lowbit::view(bytes.data(), bytes.size(), &all), "");
      auto found = unwritten(total * kFeatures);
      operators.experts(host, dispatched.data(), rows, all, bias.data(), found.data());
      hash.add(found);
      for (const int threads : {2, 3}) {
        runner::ThreadPool pool(threads);
        auto other = unwritten(total * kFeatures);
        operators.experts(pool, dispatched.data(), rows, all, bias.data(), other.data());
        if (!same_bits(found, other)) check::fail(__FILE__, __LINE__, operators.name);
      }
      std::vector<int32_t> places(static_cast<size_t>(total));
      rows.place(view(routes, shape), places.data());
      for (int64_t pair = 0; pair < total; ++pair) {
        const int64_t token = pair / shape.chosen, place = places[static_cast<size_t>(pair)];
        const auto expert = static_cast<int64_t>(
            routes[static_cast<size_t>(2 * token * shape.chosen + pair % shape.chosen)]);
        CHECK(place >= rows.begin(expert) && place < rows.begin(expert + 1));
        CHECK(same_bits(dispatched.data() + place * kColumns, x.data() + token * kColumns, kColumns));
        PackedWeight one = all;
        one.rows = one.output_stride = kFeatures;
        one.panels += static_cast<size_t>(expert * kFeatures / 16) * all.panel_bytes;
        auto expected = unwritten(kFeatures);
        operators.linear(host, x.data() + token * kColumns, 1, one, bias.data() + expert * kFeatures,
                         expected.data());
        if (!same_bits(found.data() + place * kFeatures, expected.data(), kFeatures)) {
          check::fail(__FILE__, __LINE__, std::string(operators.name) + ": other bits");
        }
      }
    }
    report(std::string("experts_") + operators.name, hash);
  }
}

// One fused multiply-add an expert: each rounds once.
TEST(combine) {
  Random random(53);
  Hash hash;
  constexpr int64_t kWidth = 83;
  for (const Shape& shape : kShapes) {
    SerialHost host;
    const auto logits = random.values(shape.tokens * shape.experts);
    const auto routes = routed(host, logits, shape, false);
    ExpertRows rows;
    CHECK(rows.count(view(routes, shape), shape.experts));
    const auto y = random.values(rows.total() * kWidth);
    auto sums = unwritten(shape.tokens * kWidth), others = sums;
    lowbit::combine(host, y.data(), kWidth, view(routes, shape), rows, sums.data());
    runner::ThreadPool pool(3);
    lowbit::combine(pool, y.data(), kWidth, view(routes, shape), rows, others.data());
    CHECK(same_bits(sums, others));
    std::vector<int32_t> places(static_cast<size_t>(rows.total()));
    rows.place(view(routes, shape), places.data());
    for (int64_t t = 0; t < shape.tokens; ++t) {
      for (int64_t i = 0; i < kWidth; ++i) {
        double expected = 0, magnitude = 0;
        for (int64_t j = 0; j < shape.chosen; ++j) {
          const int64_t place = places[static_cast<size_t>(t * shape.chosen + j)];
          const double term = static_cast<double>(y[static_cast<size_t>(place * kWidth + i)]) *
                              routes[static_cast<size_t>((2 * t + 1) * shape.chosen + j)];
          expected += term;
          magnitude += std::fabs(term);
        }
        const double error = std::fabs(sums[static_cast<size_t>(t * kWidth + i)] - expected);
        CHECK(error <= static_cast<double>(shape.chosen) * kUnit * magnitude);
      }
    }
    hash.add(sums);
  }
  report("combine", hash);
}

KERNEL_TEST_MAIN()
