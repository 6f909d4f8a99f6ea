// What stands between the bindings and the checked calls: sizes of results, from a file that may be
// damaged.

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/bindings/operators.h"
#include "tests/cpp/check.h"
#include "tests/cpp/kernel_calls.h"
#include "tests/cpp/kernel_data.h"

using namespace kernel_test;
using lowbit::Size;

lowbit::Host& lowbit::current_host() {
  static SerialHost host;
  return host;
}

TEST(numbers_that_an_int64_cannot_hold) {
  const int64_t most = std::numeric_limits<int64_t>::max();
  const Size large = most, small = -most - 1;
  CHECK_EQ((Size(6) * 24 + 1).value(), 145);
  CHECK_EQ((Size(81) / 2).value(), 40);
  CHECK((Size(most) + 0).is_number() && (Size(most) * 1).is_number());
  for (const Size none : {large + 1, large * 2, small * -1, small + -1, large / 0, large / -1}) {
    CHECK(!none.is_number());
    CHECK(!(none + -1).is_number() && !(none * 0).is_number() && !(none / 2).is_number());
    CHECK(!(Size(0) * none).is_number() && !(Size(1) / none).is_number());
  }
}

TEST(results_that_no_binding_makes) {
  auto x = floats({3, 40}), weight = floats({1}), gate_up = floats({2, 8});
  const auto run = [&](int64_t out_features) {
    lowbit::run_operator<lowbit::op::linear_fp>(
        [](int64_t, int64_t) -> TensorRef { throw std::logic_error("a result is made"); },
        TensorRef(x), TensorRef(weight), static_cast<const TensorRef*>(nullptr), out_features);
  };
  CHECK_THROWS(CallError, run(-5), "lowbit::linear_fp: a result of 3 x -5;", "0 to 2147483647");
  CHECK_THROWS(CallError, run(int64_t{1} << 31), "lowbit::linear_fp: ", "3 x 2147483648;");
  CHECK_THROWS(CallError, run(INT64_MIN), "lowbit::linear_fp: ", "3 x -9223372036854775808;");
  CHECK_THROWS(std::logic_error, run(INT32_MAX), "made");
  CHECK_THROWS(std::logic_error, run(0), "made");
  CHECK_THROWS(CallError, lowbit::check_result("attention", {3, Size(INT64_MAX) * 2}),
               "lowbit::attention: a result of 3 x what no number holds");
  CHECK_THROWS(CallError, lowbit::check_result("add", {-1, 0}), "lowbit::add: a result of -1 x 0");
  std::vector<int64_t> made;
  auto out = floats({2, 4});
  lowbit::run_operator<lowbit::op::silu_mul>(
      [&](int64_t rows, int64_t columns) {
        made = {rows, columns};
        return TensorRef(out);
      },
      TensorRef(gate_up), 0.0);
  CHECK_EQ(made, (std::vector<int64_t>{2, 4}));
}

CHECK_MAIN()
