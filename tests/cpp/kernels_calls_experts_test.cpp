// The checks of a mixture of experts' calls: each that does not fit is a CallError that names the
// operator.

#include <cstring>
#include <limits>

#include "kernels/bindings/calls.h"
#include "tests/cpp/check.h"
#include "tests/cpp/kernel_calls.h"
#include "tests/cpp/kernel_data.h"

using namespace kernel_test;

namespace {

constexpr int64_t kTokens = 3, kExperts = 4, kChosen = 2, kRows = 32, kColumns = 40;

Tensor routes(std::vector<float> numbers = {0, 1, 3, 2, 1, 3}) {
  Tensor t = floats({kTokens, 2 * kChosen});
  auto* data = reinterpret_cast<float*>(t.bytes.data());
  for (size_t i = 0; i < numbers.size(); ++i) data[i / 2 * 4 + i % 2] = numbers[i];
  return t;
}

Tensor packed(const Format& format, int64_t rows = kExperts * kRows) {
  Tensor t(Type::uint8, {static_cast<int64_t>(lowbit::packed_size(format, rows, kColumns))});
  if (format.kind == Kind::integer) {
    Random random(37);
    t.bytes = random_weight(random, format, rows, kColumns).bytes;
  } else {
    const std::vector<float> values(static_cast<size_t>(rows * kColumns));
    lowbit::pack_float(format, rows, kColumns, values.data(), t.bytes.data());
  }
  return t;
}

const Format kInteger{Kind::integer, 4, 32, Zeros::none};
const Format kThreeBits{Kind::integer, 3, 32, Zeros::none};
const Format kFloat{Kind::float16, 16, 0, Zeros::none};


template <class Call>
void check_experts(const char* op, const Format& format, const Format& other, const Call& run) {
  const Tensor x = floats({kTokens * kChosen, kColumns}), out = floats({kTokens * kChosen, kRows});
  const Tensor weight = packed(format), r = routes();
  const auto with_bias = [&](Tensor bias) { run(x, weight, &bias, r, kExperts, kRows, out); };
  run(x, weight, nullptr, r, kExperts, kRows, out);
  with_bias(floats({kExperts * kRows}));
  run(floats({0, kColumns}), weight, nullptr, floats({0, 2 * kChosen}), kExperts, kRows,
      floats({0, kRows}));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto with_routes = [&](Tensor some) { run(x, weight, nullptr, some, kExperts, kRows, out); };
  check_refused(
      op,
      {
          {"x of tokens",
           [&] { run(floats({kTokens, kColumns}), weight, nullptr, r, kExperts, kRows, out); }},
          {"x too narrow",
           [&] {
             run(floats({kTokens * kChosen, kColumns - 1}), weight, nullptr, r, kExperts, kRows, out);
           }},
          {"out too wide",
           [&] {
             run(x, weight, nullptr, r, kExperts, kRows, floats({kTokens * kChosen, kRows + 1}));
           }},
          {"a bias of one expert", [&] { with_bias(floats({kRows})); }},
          {"a bias of two dimensions", [&] { with_bias(floats({kExperts, kRows})); }},
          {"no experts", [&] { run(x, weight, nullptr, r, 0, kRows, out); }},
          {"more experts than there may be",
           [&] { run(x, weight, nullptr, r, lowbit::kMaxExperts + 1, kRows, out); }},
          {"other experts", [&] { run(x, weight, nullptr, r, kExperts + 1, kRows, out); }},
          {"rows that share a panel",
           [&] {
             run(x, packed(format, kExperts * 24), nullptr, r, kExperts, 24,
                 floats({kTokens * kChosen, 24}));
           }},
          {"no rows",
           [&] { run(x, weight, nullptr, r, kExperts, 0, floats({kTokens * kChosen, 0})); }},
          {"a weight of another kind",
           [&] { run(x, packed(other), nullptr, r, kExperts, kRows, out); }},
          {"a route to no expert", [&] { with_routes(routes({0, 1, 3, 2, 1, 4})); }},
          {"a route to half an expert", [&] { with_routes(routes({0.5, 1, 3, 2, 1, 3})); }},
          {"a route to nowhere", [&] { with_routes(routes({nan, 1, 3, 2, 1, 3})); }},
          {"routes of an odd width", [&] { with_routes(floats({kTokens, 3})); }},
          {"routes to more than there are", [&] { with_routes(floats({kTokens, 10})); }},
          {"routes of no width", [&] { with_routes(floats({kTokens, 0})); }},
          {"routes of integers", [&] { with_routes({Type::int64, r.sizes}); }},
      });
}

}  // namespace

TEST(experts_a8wx) {
  SerialHost host;
  for (const bool token_scales : {false, true}) {
    check_experts("experts_a8wx", kInteger, kFloat,
                  [&](Tensor x, Tensor weight, Tensor* bias, Tensor routes, int64_t experts,
                      int64_t rows, Tensor out) {
                    const TensorRef b = bias != nullptr ? TensorRef(*bias) : TensorRef{};
                    lowbit::call_experts_a8wx(host, x, weight, bias != nullptr ? &b : nullptr, routes,
                                              experts, rows, token_scales, out);
                  });
  }
}

TEST(experts_wx) {
  SerialHost host;
  check_experts("experts_wx", kInteger, kThreeBits,
                [&](Tensor x, Tensor weight, Tensor* bias, Tensor routes, int64_t experts,
                    int64_t rows, Tensor out) {
                  const TensorRef b = bias != nullptr ? TensorRef(*bias) : TensorRef{};
                  lowbit::call_experts_wx(host, x, weight, bias != nullptr ? &b : nullptr, routes,
                                          experts, rows, out);
                });
}

TEST(experts_fp) {
  SerialHost host;
  check_experts("experts_fp", kFloat, kInteger,
                [&](Tensor x, Tensor weight, Tensor* bias, Tensor routes, int64_t experts,
                    int64_t rows, Tensor out) {
                  const TensorRef b = bias != nullptr ? TensorRef(*bias) : TensorRef{};
                  lowbit::call_experts_fp(host, x, weight, bias != nullptr ? &b : nullptr, routes,
                                          experts, rows, out);
                });
}

TEST(route) {
  SerialHost host;
  const auto call = [&](Tensor logits, int64_t chosen, Tensor out) {
    lowbit::call_route(host, logits, chosen, true, out);
  };
  call(floats({kTokens, 4}), 2, floats({kTokens, 4}));
  call(floats({0, 4}), 2, floats({0, 4}));
  check_refused("route",
                {
                    {"none chosen", [&] { call(floats({3, 4}), 0, floats({3, 0})); }},
                    {"more chosen than there are", [&] { call(floats({3, 4}), 5, floats({3, 10})); }},
                    {"no experts", [&] { call(floats({3, 0}), 1, floats({3, 2})); }},
                    {"out too narrow", [&] { call(floats({3, 4}), 2, floats({3, 2})); }},
                    {"logits of one dimension", [&] { call(floats({4}), 2, floats({3, 4})); }},
                    {"too many experts",
                     [&] { call(floats({1, lowbit::kMaxExperts + 1}), 1, floats({1, 2})); }},
                });
}

TEST(dispatch_and_combine) {
  SerialHost host;
  const auto dispatch = [&](Tensor x, Tensor r, int64_t experts, int64_t chosen, Tensor out) {
    lowbit::call_dispatch(host, x, r, experts, chosen, out);
  };
  const auto combine = [&](Tensor x, Tensor r, int64_t experts, Tensor out) {
    lowbit::call_combine(host, x, r, experts, out);
  };
  const Tensor x = floats({kTokens, 5}), rows = floats({kTokens * kChosen, 5});
  dispatch(x, routes(), kExperts, kChosen, rows);
  combine(rows, routes(), kExperts, x);
  check_refused(
      "dispatch",
      {
          {"rows for tokens", [&] { dispatch(rows, routes(), kExperts, kChosen, rows); }},
          {"another number chosen", [&] { dispatch(x, routes(), kExperts, 1, floats({3, 5})); }},
          {"out too short", [&] { dispatch(x, routes(), kExperts, kChosen, x); }},
          {"a route to no expert", [&] { dispatch(x, routes(), 3, kChosen, rows); }},
      });
  check_refused("combine", {
                               {"tokens for rows", [&] { combine(x, routes(), kExperts, x); }},
                               {"out too long", [&] { combine(rows, routes(), kExperts, rows); }},
                               {"a route to no expert", [&] { combine(rows, routes(), 3, x); }},
                           });
}

CHECK_MAIN()
