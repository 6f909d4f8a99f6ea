// The checks between frameworks and kernels: every call that does not fit is a CallError that names
// the operator.

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kernels/bindings/calls.h"
#include "tests/cpp/check.h"
#include "tests/cpp/kernel_data.h"

using namespace kernel_test;
using lowbit::CallError;
using lowbit::TensorRef;
using lowbit::Type;

namespace {

// A tensor that owns zeros, or the values given.
struct Tensor {
  std::vector<int64_t> sizes;
  Type type;
  std::vector<uint8_t> bytes;

  Tensor(Type t, std::vector<int64_t> s, std::vector<int64_t> integers = {})
      : sizes(std::move(s)), type(t) {
    size_t n = 8;
    for (const int64_t size : sizes) n *= static_cast<size_t>(size);
    bytes.resize(n);
    if (!integers.empty()) std::memcpy(bytes.data(), integers.data(), integers.size() * 8);
  }
  operator TensorRef() { return {bytes.data(), type, sizes}; }
};

Tensor floats(std::vector<int64_t> sizes) { return {Type::float32, std::move(sizes)}; }
Tensor integers(std::vector<int64_t> sizes, std::vector<int64_t> values) {
  return {Type::int64, std::move(sizes), std::move(values)};
}

// Calls, each with one thing wrong.
struct Wrong {
  const char* what;
  std::function<void()> call;
};

void check_refused(const char* op, const std::vector<Wrong>& calls) {
  for (const Wrong& wrong : calls) {
    try {
      wrong.call();
      check::fail(__FILE__, __LINE__, std::string(op) + " takes " + wrong.what);
    } catch (const CallError& error) {
      const std::string message = error.what();
      const std::string begin = "lowbit::" + std::string(op) + ": ";
      if (!message.starts_with(begin) || message.size() == begin.size() ||
          message.find('\n') != std::string::npos) {
        check::fail(__FILE__, __LINE__, std::string(wrong.what) + ": " + message);
      }
    }
  }
}

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
    lowbit::call_embedding(host, table, tokens, width, out);
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
          {"a cut table", [&] { call({Type::uint8, {63}}, tokens, kColumns, out); }},
      });
}

TEST(norm_gates_and_sums) {
  SerialHost host;
  const auto norm = [&](Tensor x, Tensor weight, Tensor out) {
    lowbit::call_rms_norm(host, x, weight, 1e-5, out);
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
      });
  using Gate = void (*)(lowbit::Host&, TensorRef, TensorRef);
  for (const auto& [name, gate] : {std::pair<const char*, Gate>{"silu_mul", lowbit::call_silu_mul},
                                   {"gelu_mul", lowbit::call_gelu_mul}}) {
    const auto call = [&, gate = gate](Tensor x, Tensor out) { gate(host, x, out); };
    call(floats({3, 8}), floats({3, 4}));
    call(floats({3, 0}), floats({3, 0}));
    check_refused(name, {
                            {"an odd width", [&] { call(floats({3, 7}), floats({3, 3})); }},
                            {"out too wide", [&] { call(floats({3, 8}), floats({3, 8})); }},
                            {"out too short", [&] { call(floats({3, 8}), floats({2, 4})); }},
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

namespace {

// 6 heads over 2 key/value heads of width 24, a context of 40 positions.
struct Attention {
  int64_t heads = 6, kv_heads = 2, window = 0;
  Tensor qkv = floats({3, 240}), cos = floats({40, 12}), sin = floats({40, 12});
  Tensor keys{Type::float32, {2, 3, 512}}, values = keys;
  Tensor start = integers({1}, {5}), out = floats({3, 144});

  void call() {
    SerialHost host;
    lowbit::call_attention(host, qkv, cos, sin, keys, values, start, heads, kv_heads, window, false,
                           out);
  }
};

// The call with one thing altered.
Wrong wrong(const char* what, const std::function<void(Attention&)>& alter) {
  return {what, [=] {
            Attention a;
            alter(a);
            a.call();
          }};
}

}  // namespace

TEST(attention_calls_that_fit) {
  Attention{}.call();
  const auto fits = [](const std::function<void(Attention&)>& alter) {
    Attention a;
    alter(a);
    a.call();
  };
  fits([](Attention& a) { a.start = integers({1}, {37}); });  // up to the last position
  fits([](Attention& a) { a.window = INT64_MAX; });
  fits([](Attention& a) { a.cos = a.sin = floats({40, 0}); });
  fits([](Attention& a) { a.keys = a.values = {Type::float16, {2, 3, 512}}; });
  fits([](Attention& a) { a.keys = a.values = {Type::int8, {2, 3, 512 + 64}}; });
}

// 6 heads and 2 key/value heads of 24: queries are the first 144 of a token's 240 numbers. A float16
// rounds to infinity from 65520 on.
TEST(numbers_beyond_a_float16_cache) {
  const auto call = [](Type cache, int64_t start, size_t token, size_t column, float value) {
    Attention a;
    const int64_t block = cache == Type::int8 ? 512 + 64 : 512;
    a.keys = a.values = {cache, {2, 3, block}};
    a.start = integers({1}, {start});
    auto* cos = reinterpret_cast<float*>(a.cos.bytes.data());
    std::fill(cos, cos + 40 * 12, 1.0f);
    reinterpret_cast<float*>(a.qkv.bytes.data())[token * 240 + column] = value;
    a.call();
  };
  for (const int64_t start : {0, 13, 14, 15, 16, 37}) {
    for (const size_t token : {0, 2}) {
      for (const size_t column : {144, 167, 168, 191, 192, 215, 216, 239}) {
        for (const float value : {65504.0f, -65519.0f, NAN, INFINITY}) {
          call(Type::float16, start, token, column, value);  // fits, or was none before
        }
        for (const float value : {65520.0f, -7e4f, 1e30f}) {
          call(Type::float32, start, token, column, value);
          call(Type::int8, start, token, column, value);
          CHECK_THROWS(CallError, call(Type::float16, start, token, column, value),
                       "lowbit::attention: ", "65504", "--cache-dtype fp32");
        }
      }
      call(Type::float16, start, token, 143, 1e30f);  // a query
    }
  }
}

TEST(attention_calls_that_do_not) {
  using A = Attention&;
  check_refused(
      "attention",
      {
          wrong("no tokens", [](A a) { a.qkv = floats({0, 240}), a.out = floats({0, 144}); }),
          wrong("a width that heads do not divide", [](A a) { a.qkv = floats({3, 241}); }),
          wrong("qkv float16", [](A a) { a.qkv = {Type::float16, {3, 240}}; }),
          wrong("no width", [](A a) { a.qkv = floats({3, 0}), a.out = floats({3, 0}); }),
          wrong("heads too wide",
                [](A a) { a.qkv = floats({3, 10 * 257}), a.out = floats({3, 6 * 257}); }),
          wrong("7 heads over 2", [](A a) { a.heads = 7; }),
          wrong("no heads", [](A a) { a.heads = 0; }),
          wrong("-6 heads", [](A a) { a.heads = -6; }),
          wrong("no key/value heads", [](A a) { a.kv_heads = 0; }),
          wrong("-2 key/value heads", [](A a) { a.kv_heads = -2; }),
          wrong("too many heads", [](A a) { a.heads = INT64_MAX / 2 * 2, a.kv_heads = 2; }),
          wrong("too many key/value heads", [](A a) { a.heads = a.kv_heads = INT64_MAX; }),
          wrong("a window of -1", [](A a) { a.window = -1; }),
          wrong("cos too wide", [](A a) { a.cos = a.sin = floats({40, 13}); }),
          wrong("sin too narrow", [](A a) { a.sin = floats({40, 11}); }),
          wrong("sin too short", [](A a) { a.sin = floats({39, 12}); }),
          wrong("cos of one dimension", [](A a) { a.cos = floats({480}); }),
          wrong("keys of another type", [](A a) { a.keys = {Type::float16, {2, 3, 512}}; }),
          wrong("caches int64", [](A a) { a.keys = a.values = {Type::int64, {2, 3, 512}}; }),
          wrong("caches of 3 heads", [](A a) { a.keys = a.values = floats({3, 3, 512}); }),
          wrong("caches with other blocks", [](A a) { a.keys = a.values = floats({2, 3, 511}); }),
          wrong("int8 without steps", [](A a) { a.keys = a.values = {Type::int8, {2, 3, 512}}; }),
          wrong("fewer values", [](A a) { a.values = floats({2, 2, 512}); }),
          wrong("caches of two dimensions", [](A a) { a.keys = a.values = floats({2, 1536}); }),
          wrong("an empty cache", [](A a) { a.keys = a.values = floats({2, 0, 512}); }),
          wrong(
              "a short cache",
              [](A a) { a.keys = a.values = floats({2, 1, 512}), a.start = integers({1}, {14}); }),
          wrong("a position past the end", [](A a) { a.start = integers({1}, {38}); }),
          wrong("the largest position", [](A a) { a.start = integers({1}, {INT64_MAX}); }),
          wrong("position -1", [](A a) { a.start = integers({1}, {-1}); }),
          wrong("the least position", [](A a) { a.start = integers({1}, {INT64_MIN}); }),
          wrong("a float position", [](A a) { a.start = floats({1}); }),
          wrong("two positions", [](A a) { a.start = integers({2}, {0, 1}); }),
          wrong("out too narrow", [](A a) { a.out = floats({3, 143}); }),
          wrong("out too short", [](A a) { a.out = floats({2, 144}); }),
      });
}

CHECK_MAIN()
