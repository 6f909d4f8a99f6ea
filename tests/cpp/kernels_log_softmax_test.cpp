// log_softmax_at against double precision, on rows from one logit to a vocabulary of 256 thousand.

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/lowbit.h"
#include "tests/cpp/kernel_data.h"
#include "tests/cpp/kernel_isas.h"

using namespace kernel_test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kBound = 1e-5;

double reference(const float* row, int64_t width, int64_t target) {
  const double most = *std::max_element(row, row + width);
  long double total = 0;
  for (int64_t i = 0; i < width; ++i) total += std::exp(row[i] - most);
  return row[target] - most - std::log(static_cast<double>(total));
}

float value(const std::vector<float>& row, int64_t target) {
  SerialHost host;
  float out = 0;
  lowbit::log_softmax_at(host, row.data(), 1, static_cast<int64_t>(row.size()), &target, &out);
  return out;
}

}  // namespace

TEST(log_softmax) {
  Random random(31);
  Hash hash;
  SerialHost host;
  constexpr int64_t kTokens = 3;
  for (const int64_t width : {1, 2, 15, 16, 17, 1023, 1024, 1025, 49152, 256000}) {
    for (const float scale : {0.0f, 1.0f, 10.0f}) {
      const auto x = random.values(kTokens * width, scale);
      std::vector<int64_t> targets;
      for (int64_t t = 0; t < kTokens; ++t) targets.push_back(random.below(width));
      auto out = unwritten(kTokens);
      lowbit::log_softmax_at(host, x.data(), kTokens, width, targets.data(), out.data());
      for (size_t t = 0; t < kTokens; ++t) {
        const double wanted =
            reference(&x[t * static_cast<size_t>(width)], width, targets[t]);
        // The result itself is a float.
        const double bound = kBound + std::fabs(wanted) * kUnit;
        if (!(std::fabs(out[t] - wanted) <= bound)) {
          check::fail(__FILE__, __LINE__, "width " + std::to_string(width) + ": " +
                                              std::to_string(out[t]) + " is not " +
                                              std::to_string(wanted));
        }
      }
      hash.add(out);
    }
  }
  report("log_softmax", hash);
}

// All of a sum's terms round the same way where the logits are equal.
TEST(equal_logits) {
  for (const int64_t width : {1000, 128256, 256000}) {
    for (const float logit : {0.0f, -3.7f, 1e4f}) {
      const std::vector<float> row(static_cast<size_t>(width), logit);
      CHECK(std::fabs(value(row, width - 1) + std::log(static_cast<double>(width))) < 1e-6);
    }
  }
}

TEST(a_sure_token_and_impossible_ones) {
  std::vector<float> row(100, -kInfinity);
  row[7] = 3;
  CHECK_EQ(value(row, 7), 0.0f);
  CHECK_EQ(value(row, 8), -kInfinity);
  row[9] = -200;  // too little to be seen in the sum, and a value all the same
  CHECK_EQ(value(row, 9), -203.0f);
}

TEST(what_is_no_number_gives_none) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {nan, -nan, kInfinity}) {
    for (const size_t at : {size_t{0}, size_t{40}, size_t{98}}) {
      std::vector<float> row(99, 1.0f);
      row[at] = bad;
      CHECK(std::isnan(value(row, 3)));
      CHECK(std::isnan(value(row, static_cast<int64_t>(at))));
    }
  }
  CHECK(std::isnan(value(std::vector<float>(20, -kInfinity), 0)));
}

KERNEL_TEST_MAIN()
