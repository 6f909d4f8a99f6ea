#include "kernels/bindings/calls.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "kernels/bindings/checks.h"
#include "kernels/bindings/operators.h"
#include "kernels/state/state.h"

namespace lowbit {
namespace {

struct Linear {
  int64_t tokens;
  PackedStack stack;
  const float* bias;

  const PackedWeight& weight() const { return stack.weights()[0]; }
};

Linear check_linear(const char* op, const TensorRef& x, const TensorRef& weight,
                    const TensorRef* bias, int64_t out_features, const TensorRef& out) {
  const PackedStack w = packed(op, weight);
  if (w.rows() != out_features) {
    fail(op, "the weight has " + std::to_string(w.rows()) + " rows, not " +
                 std::to_string(out_features));
  }
  expect(op, "x", x, Type::float32, {-1, w.columns()});
  expect(op, "out", out, Type::float32, {x.sizes[0], w.rows()});
  if (bias != nullptr) expect(op, "bias", *bias, Type::float32, {w.rows()});
  return {x.sizes[0], w, data<const float>(bias)};
}

// A linear layer of one weight, for the operators that take no stack.
Linear check_single(const char* op, const TensorRef& x, const TensorRef& weight,
                    const TensorRef* bias, int64_t out_features, const TensorRef& out) {
  Linear l = check_linear(op, x, weight, bias, out_features, out);
  if (l.stack.weights().size() > 1) fail(op, "the weight is a stack: linear_a8wx takes those");
  return l;
}

void run_gate(Host& host, const char* op, Activation activation, const TensorRef& gate_up,
              double limit, const TensorRef& out, double offset = 0) {
  expect(op, "gate_up", gate_up, Type::float32, {-1, -1});
  if (gate_up.sizes[1] % 2 != 0) fail(op, "gate_up has an odd width");
  const int64_t tokens = gate_up.sizes[0], width = gate_up.sizes[1] / 2;
  expect(op, "out", out, Type::float32, {tokens, width});
  gate_mul(host, activation, data<const float>(gate_up), tokens, width,
           number(op, "limit", limit, 0), number(op, "offset", offset, kAny), data<float>(out));
}

void run_activation(Host& host, const char* op, Activation activation, const TensorRef& x,
                    const TensorRef& out) {
  expect(op, "x", x, Type::float32, {-1, -1});
  expect(op, "out", out, Type::float32, {x.sizes[0], x.sizes[1]});
  activate(host, activation, data<const float>(x), x.sizes[0] * x.sizes[1], data<float>(out));
}

HeadNorm check_norm(const char* op, const char* name, const TensorRef* weight, int64_t heads,
                    int64_t head_dim) {
  if (weight == nullptr) return {};
  const bool by_head = (*weight)[0] == head_dim;
  expect(op, name, *weight, Type::float32, {by_head ? head_dim : heads * head_dim});
  return {data<const float>(*weight), by_head};
}

// Whether one of n float16 at `p` is infinite or NaN: its exponent is all ones. Four at a time.
bool any_not_finite(const uint16_t* p, int64_t n) {
  constexpr uint64_t kExponents = 0x7c007c007c007c00, kOnes = 0x0400040004000400;
  uint64_t found = 0;
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    uint64_t four;
    std::memcpy(&four, p + i, sizeof(four));
    found |= (four & kExponents) + kOnes;  // into each one's sign bit
  }
  bool any = (found & 0x8000800080008000) != 0;
  for (; i < n; ++i) any |= (p[i] & 0x7c00) == 0x7c00;
  return any;
}

// Whether the keys or values that a segment wrote to a float16 cache are not finite.
bool holds_not_finite(const Cache& cache, const LayerLayout& layout, const Segment& segment) {
  const int64_t head_dim = layout.head_dim, width = (head_dim + 15) / 16 * 16, block = 16 * width;
  const int64_t end = segment.start + segment.tokens;
  bool any = false;
  for (int64_t head = 0; head < layout.kv_heads; ++head) {
    for (int64_t at = segment.start; at < end;) {
      const int64_t first = at % kBlock, n = std::min(kBlock - first, end - at);
      const int64_t from = (head * cache.blocks + segment.blocks[at / kBlock]) * block;
      const auto* keys = static_cast<const uint16_t*>(cache.keys) + from;
      const auto* values = static_cast<const uint16_t*>(cache.values) + from;
      if (n == kBlock) {
        any |= any_not_finite(keys, head_dim * 16);
      } else {
        for (int64_t j = 0; j < head_dim; ++j) any |= any_not_finite(keys + j * 16 + first, n);
      }
      for (int64_t i = first; i < first + n; ++i) any |= any_not_finite(values + i * width, head_dim);
      at += n;
    }
  }
  return any;
}

struct StateOfLayer {
  std::shared_ptr<State> state;  // lives while the operator runs
  LayerState layer;
};

StateOfLayer state_of_layer(const char* op, const TensorRef& state, const TensorRef& segments,
                            int64_t layer) {
  try {
    auto found = find_state(*data<const int64_t>(state));
    const std::span asked(data<const int64_t>(segments), 2 * static_cast<size_t>(segments.sizes[0]));
    const LayerState of_layer = found->enter(layer, asked);
    return {std::move(found), of_layer};
  } catch (const StateError& error) {
    fail(op, error.what());
  }
}

std::string text_of(Size size) {
  return size.is_number() ? std::to_string(size.value()) : "what no number holds";
}

}  // namespace

void check_result(const char* op, MatrixSize size) {
  for (const Size n : {size.rows, size.columns}) {
    if (n.is_number() && n.value() >= 0 && n.value() <= INT32_MAX) continue;
    fail(op, "a result of " + text_of(size.rows) + " x " + text_of(size.columns) +
                 "; each is from 0 to " + std::to_string(INT32_MAX));
  }
}

namespace calls {

void call_linear_a8wx(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias,
                      int64_t out_features, bool token_scales, TensorRef out) {
  const char* op = "linear_a8wx";
  const Linear l = check_linear(op, x, weight, bias, out_features, out);
  for (const PackedWeight& w : l.stack.weights()) expect_a8wx(op, w, token_scales);
  const auto scales = token_scales ? ActivationScales::token : ActivationScales::group;
  int64_t row = 0;
  for (const PackedWeight& w : l.stack.weights()) {
    linear_a8wx(host, data<const float>(x), l.tokens, w, scales,
                l.bias != nullptr ? l.bias + row : nullptr, data<float>(out) + row);
    row += w.rows;
  }
}

void call_linear_wx(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias,
                    int64_t out_features, TensorRef out) {
  const char* op = "linear_wx";
  const Linear l = check_single(op, x, weight, bias, out_features, out);
  expect_wx(op, l.weight());
  linear_wx(host, data<const float>(x), l.tokens, l.weight(), l.bias, data<float>(out));
}

void call_linear_fp(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias,
                    int64_t out_features, TensorRef out) {
  const char* op = "linear_fp";
  const Linear l = check_single(op, x, weight, bias, out_features, out);
  expect_fp(op, l.weight());
  linear_fp(host, data<const float>(x), l.tokens, l.weight(), l.bias, data<float>(out));
}

void call_embedding(Host& host, TensorRef weight, TensorRef tokens, int64_t width, double scale,
                    TensorRef out) {
  const char* op = "embedding";
  const PackedStack w = packed(op, weight);
  if (w.columns() != width) fail(op, "the table's width is " + std::to_string(w.columns()));
  expect(op, "tokens", tokens, Type::int64, {1, -1});
  expect(op, "out", out, Type::float32, {tokens.sizes[1], width});
  if (!embedding(host, data<const int64_t>(tokens), tokens.sizes[1], w.weights(),
                 number(op, "scale", scale, kAny), data<float>(out))) {
    fail(op, "a token is not in 0.." + std::to_string(w.rows() - 1));
  }
}

void call_rms_norm(Host& host, TensorRef x, TensorRef weight, double eps, TensorRef out) {
  const char* op = "rms_norm";
  expect(op, "x", x, Type::float32, {-1, -1});
  expect(op, "weight", weight, Type::float32, {x.sizes[1]});
  expect(op, "out", out, Type::float32, {x.sizes[0], x.sizes[1]});
  rms_norm(host, data<const float>(x), x.sizes[0], x.sizes[1], data<const float>(weight),
           number(op, "eps", eps, 0), data<float>(out));
}

void call_layer_norm(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias, double eps,
                     TensorRef out) {
  const char* op = "layer_norm";
  expect(op, "x", x, Type::float32, {-1, -1});
  expect(op, "weight", weight, Type::float32, {x.sizes[1]});
  if (bias != nullptr) expect(op, "bias", *bias, Type::float32, {x.sizes[1]});
  expect(op, "out", out, Type::float32, {x.sizes[0], x.sizes[1]});
  layer_norm(host, data<const float>(x), x.sizes[0], x.sizes[1], data<const float>(weight),
             data<const float>(bias), number(op, "eps", eps, 0),
             data<float>(out));
}

void call_silu(Host& host, TensorRef x, TensorRef out) {
  run_activation(host, "silu", Activation::silu, x, out);
}

void call_gelu(Host& host, TensorRef x, TensorRef out) {
  run_activation(host, "gelu", Activation::gelu, x, out);
}

void call_gelu_tanh(Host& host, TensorRef x, TensorRef out) {
  run_activation(host, "gelu_tanh", Activation::gelu_tanh, x, out);
}

void call_relu2(Host& host, TensorRef x, TensorRef out) {
  run_activation(host, "relu2", Activation::relu2, x, out);
}

void call_xielu(Host& host, TensorRef x, double alpha_p, double alpha_n, double beta, double eps,
                TensorRef out) {
  const char* op = "xielu";
  expect(op, "x", x, Type::float32, {-1, -1});
  expect(op, "out", out, Type::float32, {x.sizes[0], x.sizes[1]});
  const Xielu parameters{number(op, "alpha_p", alpha_p, kAny), number(op, "alpha_n", alpha_n, kAny),
                         number(op, "beta", beta, kAny), number(op, "eps", eps, kAny)};
  if (parameters.eps > 0) fail(op, "eps is " + std::to_string(eps) + ", above 0");
  xielu(host, data<const float>(x), x.sizes[0] * x.sizes[1], parameters, data<float>(out));
}

void call_silu_mul(Host& host, TensorRef gate_up, double limit, TensorRef out) {
  run_gate(host, "silu_mul", Activation::silu, gate_up, limit, out);
}

void call_gelu_mul(Host& host, TensorRef gate_up, double limit, TensorRef out) {
  run_gate(host, "gelu_mul", Activation::gelu, gate_up, limit, out);
}

void call_gelu_tanh_mul(Host& host, TensorRef gate_up, double limit, TensorRef out) {
  run_gate(host, "gelu_tanh_mul", Activation::gelu_tanh, gate_up, limit, out);
}

void call_relu2_mul(Host& host, TensorRef gate_up, double limit, TensorRef out) {
  run_gate(host, "relu2_mul", Activation::relu2, gate_up, limit, out);
}

void call_quick_gelu_mul(Host& host, TensorRef gate_up, double limit, double offset,
                         TensorRef out) {
  run_gate(host, "quick_gelu_mul", Activation::quick_gelu, gate_up, limit, out, offset);
}

void call_add(Host& host, TensorRef a, TensorRef b, TensorRef out) {
  const char* op = "add";
  expect(op, "a", a, Type::float32, {-1, -1});
  expect(op, "b", b, Type::float32, {a.sizes[0], a.sizes[1]});
  expect(op, "out", out, Type::float32, {a.sizes[0], a.sizes[1]});
  add(host, data<const float>(a), data<const float>(b), a.sizes[0] * a.sizes[1], data<float>(out));
}

void call_softcap(Host& host, TensorRef x, double cap, TensorRef out) {
  const char* op = "softcap";
  expect(op, "x", x, Type::float32, {-1, -1});
  expect(op, "out", out, Type::float32, {x.sizes[0], x.sizes[1]});
  const float most = number(op, "cap", cap, 0);
  if (most == 0) fail(op, "cap is 0; a number above 0 is wanted");
  softcap(host, data<const float>(x), x.sizes[0] * x.sizes[1], most, data<float>(out));
}

void call_select_rows(Host&, TensorRef x, TensorRef rows, TensorRef out) {
  const char* op = "select_rows";
  expect(op, "x", x, Type::float32, {-1, -1});
  expect(op, "rows", rows, Type::int64, {-1});
  expect(op, "out", out, Type::float32, {rows.sizes[0], x.sizes[1]});
  for (int64_t i = 0; i < rows.sizes[0]; ++i) {
    const int64_t row = data<const int64_t>(rows)[i];
    if (row < 0 || row >= x.sizes[0]) {
      fail(op, "row " + std::to_string(row) + " is not in 0.." + std::to_string(x.sizes[0] - 1));
    }
    std::memcpy(data<float>(out) + i * x.sizes[1], data<const float>(x) + row * x.sizes[1],
                static_cast<size_t>(x.sizes[1]) * sizeof(float));
  }
}

void call_attention(Host& host, TensorRef qkv, TensorRef segments, TensorRef state,
                    const TensorRef* q_norm, const TensorRef* k_norm, const TensorRef* sinks,
                    int64_t layer, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                    bool interleaved, bool gated, double norm_eps, double scale, double softcap,
                    TensorRef out) {
  const char* op = "attention";
  expect(op, "qkv", qkv, Type::float32, {-1, -1});
  expect(op, "segments", segments, Type::int64, {-1, 2});
  expect(op, "state", state, Type::int64, {1});
  if (head_dim < 1 || head_dim > kMaxHeadDim) {
    fail(op, "a head width of " + std::to_string(head_dim) + " is not in 1.." +
                 std::to_string(kMaxHeadDim));
  }
  const int64_t width = qkv.sizes[1];
  if (heads < 1 || kv_heads < 1 || heads > width || kv_heads > heads || heads % kv_heads != 0 ||
      ((gated ? 2 : 1) * heads + 2 * kv_heads) * head_dim != width) {
    fail(op, std::to_string(heads) + " heads and " + std::to_string(kv_heads) +
                 " key/value heads of width " + std::to_string(head_dim) +
                 (gated ? " with gates" : "") + " do not fit a width of " + std::to_string(width));
  }
  if (window < 0) fail(op, "a window of " + std::to_string(window) + " positions; 0 is none");
  if (sinks != nullptr) expect(op, "sinks", *sinks, Type::float32, {heads});
  const StateOfLayer found = state_of_layer(op, state, segments, layer);
  const LayerState& own = found.layer;
  if (own.layout.kv_heads != kv_heads || own.layout.head_dim != head_dim) {
    fail(op, "the state's layer " + std::to_string(layer) + " has " +
                 std::to_string(own.layout.kv_heads) + " key/value heads of width " +
                 std::to_string(own.layout.head_dim) + ", not " + std::to_string(kv_heads) + " of " +
                 std::to_string(head_dim));
  }
  const AttentionShape shape{
      .heads = heads,
      .kv_heads = kv_heads,
      .head_dim = head_dim,
      .rotary_dim = own.rotary_dim,
      .interleaved = interleaved,
      .window = window,
      .scale = number(op, "scale", scale, kAny),
      .softcap = number(op, "softcap", softcap, 0),
      .gated = gated,
      .q_norm = check_norm(op, "q_norm", q_norm, heads, head_dim),
      .k_norm = check_norm(op, "k_norm", k_norm, kv_heads, head_dim),
      .norm_eps = number(op, "norm_eps", norm_eps, 0),
      .sinks = data<const float>(sinks),
      .query_factors = own.query_factors,
  };
  const int64_t tokens = qkv.sizes[0];
  int64_t asked = 0;
  for (const Segment& segment : own.segments) asked += segment.tokens;
  if (asked != tokens) {
    fail(op, "the segments have " + std::to_string(asked) + " tokens, qkv has " +
                 std::to_string(tokens));
  }
  expect(op, "out", out, Type::float32, {tokens, heads * head_dim});
  attention(host, data<const float>(qkv), own.segments, own.cos, own.sin, shape, own.cache,
            data<float>(out));
  if (own.cache.type != CacheType::float16) return;
  const bool beyond = std::ranges::any_of(own.segments, [&](const Segment& segment) {
    return holds_not_finite(own.cache, own.layout, segment);
  });
  if (!beyond) return;
  const std::span<const float> given(data<const float>(qkv), static_cast<size_t>(tokens * width));
  if (!std::ranges::all_of(given, [](float x) { return std::isfinite(x); })) return;  // broken before
  fail(op, "the model's keys or values are beyond 65504, the largest number of its float16 cache: use "
           "--cache-dtype fp32, when it is run or at export");
}

}  // namespace calls
}  // namespace lowbit
