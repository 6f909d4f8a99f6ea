// The checks between frameworks and kernels: every call that does not fit is a CallError that names
// the operator.

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kernels/bindings/calls.h"
#include "tests/cpp/check.h"
#include "tests/cpp/kernel_calls.h"
#include "tests/cpp/kernel_data.h"

using namespace kernel_test;
using lowbit::TensorRef;
using lowbit::Type;

namespace {

constexpr int64_t kTokens = 3, kColumns = 40, kRows = 17;

Tensor packed(const Format& format, int64_t rows = kRows, int64_t columns = kColumns) {
  Tensor t(Type::uint8, {static_cast<int64_t>(lowbit::packed_size(format, rows, columns))});
  if (format.kind == Kind::integer) {
    Random random(37);
    t.bytes = random_weight(random, format, rows, columns).bytes;
  } else {
    const std::vector<float> values(static_cast<size_t>(rows * columns));
    lowbit::pack_float(format, rows, columns, values.data(), t.bytes.data());
  }
  return t;
}

const Format kInteger{Kind::integer, 4, 32, Zeros::none};
const Format kThreeBits{Kind::integer, 3, 32, Zeros::none};
const Format kInt8Scales{Kind::integer, 4, 32, Zeros::none, Scales::int8};
const Format kFloat{Kind::float16, 16, 0, Zeros::none};

// A call of one of the linears.
using Linear = std::function<void(Tensor x, Tensor weight, Tensor* bias, int64_t rows, Tensor out)>;

void check_linear(const char* op, const Format& format, const Linear& linear) {
  const auto x = floats({kTokens, kColumns}), out = floats({kTokens, kRows});
  const auto weight = packed(format);
  const auto with_bias = [&](Tensor bias) { linear(x, weight, &bias, kRows, out); };
  linear(x, weight, nullptr, kRows, out);
  with_bias(floats({kRows}));
  linear(floats({0, kColumns}), weight, nullptr, kRows, floats({0, kRows}));
  auto damaged = weight, cut = weight;
  damaged.bytes[9] ^= 1;
  cut.sizes[0] -= 64;
  check_refused(
      op,
      {
          {"x too narrow",
           [&] { linear(floats({kTokens, kColumns - 1}), weight, nullptr, kRows, out); }},
          {"x of one dimension", [&] { linear(floats({kColumns}), weight, nullptr, kRows, out); }},
          {"x of three",
           [&] { linear(floats({1, kTokens, kColumns}), weight, nullptr, kRows, out); }},
          {"x float16", [&] { linear({Type::float16, x.sizes}, weight, nullptr, kRows, out); }},
          {"x int64", [&] { linear({Type::int64, x.sizes}, weight, nullptr, kRows, out); }},
          {"x of another type",
           [&] { linear({Type::other, x.sizes}, weight, nullptr, kRows, out); }},
          {"out too wide",
           [&] { linear(x, weight, nullptr, kRows, floats({kTokens, kRows + 1})); }},
          {"out too short",
           [&] { linear(x, weight, nullptr, kRows, floats({kTokens - 1, kRows})); }},
          {"out int8", [&] { linear(x, weight, nullptr, kRows, {Type::int8, out.sizes}); }},
          {"bias too long", [&] { with_bias(floats({kRows + 1})); }},
          {"bias of two dimensions", [&] { with_bias(floats({1, kRows})); }},
          {"bias float16", [&] { with_bias({Type::float16, {kRows}}); }},
          {"other rows",
           [&] { linear(x, weight, nullptr, kRows + 1, floats({kTokens, kRows + 1})); }},
          {"no rows", [&] { linear(x, weight, nullptr, 0, floats({kTokens, 0})); }},
          {"a weight of floats", [&] { linear(x, floats(weight.sizes), nullptr, kRows, out); }},
          {"a weight of two dimensions",
           [&] { linear(x, {Type::uint8, {1, weight.sizes[0]}}, nullptr, kRows, out); }},
          {"an empty weight", [&] { linear(x, {Type::uint8, {0}}, nullptr, kRows, out); }},
          {"a damaged weight", [&] { linear(x, damaged, nullptr, kRows, out); }},
          {"a cut weight", [&] { linear(x, cut, nullptr, kRows, out); }},
          {"a weight of the other kind",
           [&] {
             linear(x, packed(format.kind == Kind::integer ? kFloat : kInteger), nullptr, kRows,
                    out);
           }},
      });
}

}  // namespace

TEST(linears) {
  SerialHost host;
  const auto a8wx = [&](bool token) -> Linear {
    return [&host, token](Tensor x, Tensor w, Tensor* bias, int64_t rows, Tensor out) {
      const TensorRef b = bias ? TensorRef(*bias) : TensorRef{};
      lowbit::call_linear_a8wx(host, x, w, bias ? &b : nullptr, rows, token, out);
    };
  };
  check_linear("linear_a8wx", kThreeBits, a8wx(false));
  check_linear("linear_a8wx", kThreeBits, a8wx(true));
  check_linear("linear_a8wx", kInt8Scales, a8wx(false));
  check_refused("linear_a8wx",
                {{"a scale a token, and int8 scales", [&] {
                    a8wx(true)(floats({kTokens, kColumns}), packed(kInt8Scales), nullptr, kRows,
                               floats({kTokens, kRows}));
                  }}});
  const Linear wx = [&](Tensor x, Tensor w, Tensor* bias, int64_t rows, Tensor out) {
    const TensorRef b = bias ? TensorRef(*bias) : TensorRef{};
    lowbit::call_linear_wx(host, x, w, bias ? &b : nullptr, rows, out);
  };
  check_linear("linear_wx", kInteger, wx);
  check_refused("linear_wx", {{"3 bits", [&] {
                                 wx(floats({kTokens, kColumns}), packed(kThreeBits), nullptr, kRows,
                                    floats({kTokens, kRows}));
                               }},
                              {"int8 scales", [&] {
                                 wx(floats({kTokens, kColumns}), packed(kInt8Scales), nullptr,
                                    kRows, floats({kTokens, kRows}));
                               }}});
  const auto stack = [](const Format& format) {
    const Tensor a = packed(format, 1), b = packed(format, kRows - 1);
    Tensor t(Type::uint8, {0});
    t.bytes = stacked({{a.bytes.data(), static_cast<size_t>(a.sizes[0])},
                       {b.bytes.data(), static_cast<size_t>(b.sizes[0])}});
    t.sizes[0] = static_cast<int64_t>(t.bytes.size());
    return t;
  };
  const auto x = floats({kTokens, kColumns}), out = floats({kTokens, kRows});
  a8wx(false)(x, stack(kThreeBits), nullptr, kRows, out);
  check_refused("linear_a8wx", {{"a stack of floats", [&] {
                                   a8wx(false)(x, stack(kFloat), nullptr, kRows, out);
                                 }},
                                {"a stack of other rows", [&] {
                                   a8wx(false)(x, stack(kThreeBits), nullptr, kRows - 1,
                                               floats({kTokens, kRows - 1}));
                                 }},
                                {"a scale a token, and a stack of int8 scales", [&] {
                                   a8wx(true)(x, stack(kInt8Scales), nullptr, kRows, out);
                                 }}});
  check_refused("linear_wx",
                {{"a stack", [&] { wx(x, stack(kInteger), nullptr, kRows, out); }}});
  check_linear("linear_fp", kFloat,
               [&](Tensor x, Tensor w, Tensor* bias, int64_t rows, Tensor out) {
                 const TensorRef b = bias ? TensorRef(*bias) : TensorRef{};
                 lowbit::call_linear_fp(host, x, w, bias ? &b : nullptr, rows, out);
               });
}

TEST(embedding) {
  SerialHost host;
  const auto call = [&](Tensor table, Tensor tokens, int64_t width, Tensor out) {
    lowbit::call_embedding(host, table, tokens, width, 1, out);
  };
  const auto table = packed(kInteger);
  const auto tokens = integers({1, 2}, {0, 16});
  const auto out = floats({2, kColumns});
  call(table, tokens, kColumns, out);
  call(packed(kFloat), tokens, kColumns, out);
  check_refused(
      "embedding",
      {
          {"token 17 of 17", [&] { call(table, integers({1, 2}, {0, 17}), kColumns, out); }},
          {"token -1", [&] { call(table, integers({1, 2}, {-1, 0}), kColumns, out); }},
          {"the largest token",
           [&] { call(table, integers({1, 2}, {0, INT64_MAX}), kColumns, out); }},
          {"tokens of one dimension", [&] { call(table, integers({2}, {0, 1}), kColumns, out); }},
          {"two batches", [&] { call(table, integers({2, 1}, {0, 1}), kColumns, out); }},
          {"tokens of floats", [&] { call(table, floats({1, 2}), kColumns, out); }},
          {"another width", [&] { call(table, tokens, kColumns + 1, floats({2, kColumns + 1})); }},
          {"out too short", [&] { call(table, tokens, kColumns, floats({1, kColumns})); }},
          {"out too narrow", [&] { call(table, tokens, kColumns, floats({2, kColumns - 1})); }},
          {"a scale that is none",
           [&] {
             Tensor t = table, i = tokens, o = out;
             lowbit::call_embedding(host, t, i, kColumns, NAN, o);
           }},
          {"a cut table", [&] { call({Type::uint8, {63}}, tokens, kColumns, out); }},
      });
}

TEST(norm_gates_and_sums) {
  SerialHost host;
  const auto norm = [&](Tensor x, Tensor weight, Tensor out, double eps = 1e-5) {
    lowbit::call_rms_norm(host, x, weight, eps, out);
  };
  norm(floats({3, 8}), floats({8}), floats({3, 8}));
  norm(floats({3, 0}), floats({0}), floats({3, 0}));
  norm(floats({0, 8}), floats({8}), floats({0, 8}));
  check_refused(
      "rms_norm",
      {
          {"a weight too short", [&] { norm(floats({3, 8}), floats({7}), floats({3, 8})); }},
          {"a weight float16", [&] { norm(floats({3, 8}), {Type::float16, {8}}, floats({3, 8})); }},
          {"out too short", [&] { norm(floats({3, 8}), floats({8}), floats({2, 8})); }},
          {"x of one dimension", [&] { norm(floats({8}), floats({8}), floats({8})); }},
          {"eps -1", [&] { norm(floats({3, 8}), floats({8}), floats({3, 8}), -1); }},
          {"eps NaN", [&] { norm(floats({3, 8}), floats({8}), floats({3, 8}), NAN); }},
      });
  const auto layer_norm = [&](Tensor x, Tensor weight, Tensor bias, Tensor out, double eps = 1e-5) {
    const TensorRef of_bias = bias;
    lowbit::call_layer_norm(host, x, weight, &of_bias, eps, out);
  };
  layer_norm(floats({3, 8}), floats({8}), floats({8}), floats({3, 8}));
  layer_norm(floats({3, 0}), floats({0}), floats({0}), floats({3, 0}));
  auto x = floats({3, 8}), weight = floats({8}), out = floats({3, 8});
  lowbit::call_layer_norm(host, x, weight, nullptr, 1e-5, out);
  check_refused(
      "layer_norm",
      {
          {"a weight too short",
           [&] { layer_norm(floats({3, 8}), floats({7}), floats({8}), floats({3, 8})); }},
          {"a bias too long",
           [&] { layer_norm(floats({3, 8}), floats({8}), floats({9}), floats({3, 8})); }},
          {"a bias float16",
           [&] { layer_norm(floats({3, 8}), floats({8}), {Type::float16, {8}}, floats({3, 8})); }},
          {"out too short",
           [&] { layer_norm(floats({3, 8}), floats({8}), floats({8}), floats({2, 8})); }},
          {"eps -1",
           [&] { layer_norm(floats({3, 8}), floats({8}), floats({8}), floats({3, 8}), -1); }},
      });
  using Alone = void (*)(lowbit::Host&, TensorRef, TensorRef);
  for (const auto& [name, activate] : {std::pair<const char*, Alone>{"silu", lowbit::call_silu},
                                       {"gelu", lowbit::call_gelu},
                                       {"gelu_tanh", lowbit::call_gelu_tanh},
                                       {"relu2", lowbit::call_relu2}}) {
    const auto call = [&, activate = activate](Tensor from, Tensor to) { activate(host, from, to); };
    call(floats({3, 7}), floats({3, 7}));
    call(floats({3, 0}), floats({3, 0}));
    check_refused(name, {
                            {"out too wide", [&] { call(floats({3, 7}), floats({3, 8})); }},
                            {"x of one dimension", [&] { call(floats({8}), floats({8})); }},
                        });
  }
  const auto xielu = [&](Tensor from, Tensor to, double alpha = 0.8, double eps = -1e-6) {
    lowbit::call_xielu(host, from, alpha, 0.8, 0.5, eps, to);
  };
  xielu(floats({3, 7}), floats({3, 7}));
  xielu(floats({3, 7}), floats({3, 7}), -1, 0);
  check_refused("xielu", {
                             {"out too wide", [&] { xielu(floats({3, 7}), floats({3, 8})); }},
                             {"alpha NaN", [&] { xielu(floats({3, 7}), floats({3, 7}), NAN); }},
                             {"eps 1", [&] { xielu(floats({3, 7}), floats({3, 7}), 0.8, 1); }},
                         });
  using Gate = void (*)(lowbit::Host&, TensorRef, double, TensorRef);
  for (const auto& [name, gate] : {std::pair<const char*, Gate>{"silu_mul", lowbit::call_silu_mul},
                                   {"gelu_mul", lowbit::call_gelu_mul},
                                   {"gelu_tanh_mul", lowbit::call_gelu_tanh_mul},
                                   {"relu2_mul", lowbit::call_relu2_mul}}) {
    const auto call = [&, gate = gate](Tensor x, Tensor out, double limit = 0) {
      gate(host, x, limit, out);
    };
    call(floats({3, 8}), floats({3, 4}));
    call(floats({3, 8}), floats({3, 4}), 7);
    call(floats({3, 0}), floats({3, 0}));
    check_refused(name, {
                            {"an odd width", [&] { call(floats({3, 7}), floats({3, 3})); }},
                            {"out too wide", [&] { call(floats({3, 8}), floats({3, 8})); }},
                            {"out too short", [&] { call(floats({3, 8}), floats({2, 4})); }},
                            {"limit -1", [&] { call(floats({3, 8}), floats({3, 4}), -1); }},
                            {"limit NaN", [&] { call(floats({3, 8}), floats({3, 4}), NAN); }},
                            {"limit 1e39", [&] { call(floats({3, 8}), floats({3, 4}), 1e39); }},
                            {"float16", [&] { call({Type::float16, {3, 8}}, floats({3, 4})); }},
                        });
  }
  const auto add = [&](Tensor a, Tensor b, Tensor out) { lowbit::call_add(host, a, b, out); };
  add(floats({3, 8}), floats({3, 8}), floats({3, 8}));
  check_refused(
      "add", {
                 {"b too short", [&] { add(floats({3, 8}), floats({2, 8}), floats({3, 8})); }},
                 {"b to be spread", [&] { add(floats({3, 8}), floats({1, 8}), floats({3, 8})); }},
                 {"out too narrow", [&] { add(floats({3, 8}), floats({3, 8}), floats({3, 7})); }},
                 {"integers", [&] { add(floats({3, 8}), integers({3, 8}, {}), floats({3, 8})); }},
             });
}

TEST(softcap) {
  SerialHost host;
  const auto call = [&](Tensor x, Tensor out, double cap = 30) {
    lowbit::call_softcap(host, x, cap, out);
  };
  call(floats({3, 8}), floats({3, 8}));
  check_refused("softcap", {
                               {"out too wide", [&] { call(floats({3, 8}), floats({3, 9})); }},
                               {"out too short", [&] { call(floats({3, 8}), floats({2, 8})); }},
                               {"cap 0", [&] { call(floats({3, 8}), floats({3, 8}), 0); }},
                               {"cap -1", [&] { call(floats({3, 8}), floats({3, 8}), -1); }},
                               {"cap NaN", [&] { call(floats({3, 8}), floats({3, 8}), NAN); }},
                               {"float16", [&] { call({Type::float16, {3, 8}}, floats({3, 8})); }},
                           });
}

TEST(select_rows) {
  SerialHost host;
  const auto call = [&](Tensor x, Tensor rows, Tensor out) {
    lowbit::call_select_rows(host, x, rows, out);
  };
  call(floats({3, 8}), integers({2}, {2, 0}), floats({2, 8}));
  check_refused(
      "select_rows",
      {
          {"row 3 of 3", [&] { call(floats({3, 8}), integers({2}, {0, 3}), floats({2, 8})); }},
          {"row -1", [&] { call(floats({3, 8}), integers({2}, {-1, 0}), floats({2, 8})); }},
          {"the largest row",
           [&] { call(floats({3, 8}), integers({1}, {INT64_MAX}), floats({1, 8})); }},
          {"rows of floats", [&] { call(floats({3, 8}), floats({2}), floats({2, 8})); }},
          {"out too short", [&] { call(floats({3, 8}), integers({2}, {0, 1}), floats({1, 8})); }},
          {"out too narrow", [&] { call(floats({3, 8}), integers({2}, {0, 1}), floats({2, 7})); }},
      });
}

CHECK_MAIN()
