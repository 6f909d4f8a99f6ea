// The operators in PyTorch: schemas, CPU implementations, and packing. Their shapes for tracing
// are in exporter/lowbit/ops.py.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <memory>
#include <span>
#include <vector>

#include "kernels/bindings/calls.h"

namespace lowbit {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Threads and scratch memory from PyTorch. One for each calling thread, so that two threads may
// run models side by side.
class AtenHost final : public Host {
 public:
  void parallel_for(int64_t n, int64_t grain, void (*task)(void*, int64_t, int64_t),
                    void* context) override {
    at::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) { task(context, begin, end); });
  }
  void* scratch(size_t bytes) override {
    if (!memory_.defined() || memory_.nbytes() < bytes) {
      memory_ = at::empty({static_cast<int64_t>(bytes)}, at::kByte);
    }
    return memory_.data_ptr();
  }

 private:
  Tensor memory_;
};

TensorRef ref(const Tensor& t) {
  TORCH_CHECK(t.device().is_cpu(), "lowbit operators run on the CPU, not on ", t.device());
  TORCH_CHECK(t.is_contiguous(), "lowbit operators take contiguous tensors");
  const auto type = [&] {
    switch (t.scalar_type()) {
      case at::kFloat: return Type::float32;
      case at::kHalf: return Type::float16;
      case at::kChar: return Type::int8;
      case at::kByte: return Type::uint8;
      case at::kLong: return Type::int64;
      default: return Type::other;
    }
  }();
  return {t.data_ptr(), type, {t.sizes().data(), t.sizes().size()}};
}

Tensor matrix(int64_t rows, int64_t columns) { return at::empty({rows, columns}, at::kFloat); }

Tensor& linear_a8wx_out(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                        int64_t out_features, bool token_scales, Tensor& out) {
  const TensorRef b = bias ? ref(*bias) : TensorRef{};
  call_linear_a8wx(current_host(), ref(x), ref(weight), bias ? &b : nullptr, out_features,
                   token_scales, ref(out));
  return out;
}
Tensor linear_a8wx_op(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                      int64_t out_features, bool token_scales) {
  Tensor out = matrix(x.size(0), out_features);
  return linear_a8wx_out(x, weight, bias, out_features, token_scales, out);
}

Tensor& linear_wx_out(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                      int64_t out_features, Tensor& out) {
  const TensorRef b = bias ? ref(*bias) : TensorRef{};
  call_linear_wx(current_host(), ref(x), ref(weight), bias ? &b : nullptr, out_features, ref(out));
  return out;
}
Tensor linear_wx_op(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                    int64_t out_features) {
  Tensor out = matrix(x.size(0), out_features);
  return linear_wx_out(x, weight, bias, out_features, out);
}

Tensor& linear_fp_out(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                      int64_t out_features, Tensor& out) {
  const TensorRef b = bias ? ref(*bias) : TensorRef{};
  call_linear_fp(current_host(), ref(x), ref(weight), bias ? &b : nullptr, out_features, ref(out));
  return out;
}
Tensor linear_fp_op(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                    int64_t out_features) {
  Tensor out = matrix(x.size(0), out_features);
  return linear_fp_out(x, weight, bias, out_features, out);
}

Tensor& embedding_out(const Tensor& weight, const Tensor& tokens, int64_t width, Tensor& out) {
  call_embedding(current_host(), ref(weight), ref(tokens), width, ref(out));
  return out;
}
Tensor embedding_op(const Tensor& weight, const Tensor& tokens, int64_t width) {
  Tensor out = matrix(tokens.size(-1), width);
  return embedding_out(weight, tokens, width, out);
}

Tensor& rms_norm_out(const Tensor& x, const Tensor& weight, double eps, Tensor& out) {
  call_rms_norm(current_host(), ref(x), ref(weight), eps, ref(out));
  return out;
}
Tensor rms_norm_op(const Tensor& x, const Tensor& weight, double eps) {
  Tensor out = matrix(x.size(0), x.size(-1));
  return rms_norm_out(x, weight, eps, out);
}

Tensor& silu_mul_out(const Tensor& gate_up, Tensor& out) {
  call_silu_mul(current_host(), ref(gate_up), ref(out));
  return out;
}
Tensor silu_mul_op(const Tensor& gate_up) {
  Tensor out = matrix(gate_up.size(0), gate_up.size(-1) / 2);
  return silu_mul_out(gate_up, out);
}

Tensor& gelu_mul_out(const Tensor& gate_up, Tensor& out) {
  call_gelu_mul(current_host(), ref(gate_up), ref(out));
  return out;
}
Tensor gelu_mul_op(const Tensor& gate_up) {
  Tensor out = matrix(gate_up.size(0), gate_up.size(-1) / 2);
  return gelu_mul_out(gate_up, out);
}

Tensor& add_out(const Tensor& a, const Tensor& b, Tensor& out) {
  call_add(current_host(), ref(a), ref(b), ref(out));
  return out;
}
Tensor add_op(const Tensor& a, const Tensor& b) {
  Tensor out = matrix(a.size(0), a.size(-1));
  return add_out(a, b, out);
}

Tensor& select_rows_out(const Tensor& x, const Tensor& rows, Tensor& out) {
  call_select_rows(current_host(), ref(x), ref(rows), ref(out));
  return out;
}
Tensor select_rows_op(const Tensor& x, const Tensor& rows) {
  Tensor out = matrix(rows.size(0), x.size(-1));
  return select_rows_out(x, rows, out);
}

Tensor& attention_out(const Tensor& qkv, const Tensor& cos, const Tensor& sin, Tensor& key_cache,
                      Tensor& value_cache, const Tensor& start_pos, int64_t heads, int64_t kv_heads,
                      int64_t window, bool interleaved, Tensor& out) {
  call_attention(current_host(), ref(qkv), ref(cos), ref(sin), ref(key_cache), ref(value_cache),
                 ref(start_pos), heads, kv_heads, window, interleaved, ref(out));
  return out;
}
Tensor attention_op(const Tensor& qkv, const Tensor& cos, const Tensor& sin, Tensor& key_cache,
                    Tensor& value_cache, const Tensor& start_pos, int64_t heads, int64_t kv_heads,
                    int64_t window, bool interleaved) {
  TORCH_CHECK(heads + 2 * kv_heads > 0, "lowbit::attention: no heads");
  Tensor out = matrix(qkv.size(0), qkv.size(-1) / (heads + 2 * kv_heads) * heads);
  return attention_out(qkv, cos, sin, key_cache, value_cache, start_pos, heads, kv_heads, window,
                       interleaved, out);
}

// --- Packing --------------------------------------------------------------------------------------

Zeros zeros_of(c10::string_view kind) {
  if (kind == "none") return Zeros::none;
  if (kind == "integer") return Zeros::integer;
  if (kind == "real") return Zeros::real;
  TORCH_CHECK(kind == "between", "zeros are none, integer, real or between, not ", kind);
  return Zeros::between;
}

Tensor pack_integer_op(const Tensor& values, const Tensor& scales, const OptionalTensor& zeros,
                       int64_t bits, int64_t group_size, c10::string_view zeros_kind,
                       bool int8_scales) {
  TORCH_CHECK(values.dim() == 2 && values.scalar_type() == at::kByte && values.is_contiguous(),
              "pack_integer takes contiguous uint8 values [N, K]");
  TORCH_CHECK(bits >= 1 && bits <= 8 && group_size >= 16 && group_size % 16 == 0,
              "pack_integer takes 1 to 8 bits and groups of a multiple of 16");
  const int64_t groups = (values.size(1) + group_size - 1) / group_size;
  const auto fits = [&](const Tensor& t) {
    return t.dim() == 2 && t.size(0) == values.size(0) && t.size(1) == groups &&
           t.scalar_type() == at::kFloat && t.is_contiguous();
  };
  TORCH_CHECK(fits(scales) && (!zeros || fits(*zeros)),
              "pack_integer takes contiguous float32 scales and zeros [N, G]");
  const Format format{Kind::integer, static_cast<uint32_t>(bits), static_cast<uint32_t>(group_size),
                      zeros_of(zeros_kind),
                      int8_scales ? Scales::int8 : Scales::float16};
  Tensor out = at::empty(
      {static_cast<int64_t>(packed_size(format, values.size(0), values.size(1)))}, at::kByte);
  pack_integer(format, values.size(0), values.size(1), values.const_data_ptr<uint8_t>(),
               scales.const_data_ptr<float>(), zeros ? zeros->const_data_ptr<float>() : nullptr,
               out.data_ptr());
  return out;
}

Tensor pack_float_op(const Tensor& values, at::ScalarType dtype) {
  TORCH_CHECK(values.dim() == 2 && values.scalar_type() == at::kFloat && values.is_contiguous(),
              "pack_float takes contiguous float32 values [N, K]");
  Format format{Kind::float32, 32, 0, Zeros::none};
  if (dtype == at::kHalf) {
    format = {Kind::float16, 16, 0, Zeros::none};
  } else if (dtype == at::kBFloat16) {
    format = {Kind::bfloat16, 16, 0, Zeros::none};
  } else {
    TORCH_CHECK(dtype == at::kFloat, "pack_float packs float32, float16 or bfloat16, not ", dtype);
  }
  Tensor out = at::empty(
      {static_cast<int64_t>(packed_size(format, values.size(0), values.size(1)))}, at::kByte);
  pack_float(format, values.size(0), values.size(1), values.const_data_ptr<float>(),
             out.data_ptr());
  return out;
}

Tensor pack_stack_op(at::TensorList weights) {
  std::vector<std::span<const uint8_t>> parts;
  for (const Tensor& weight : weights) {
    TORCH_CHECK(ref(weight).type == Type::uint8 && weight.dim() == 1, "pack_stack takes uint8 bytes");
    parts.emplace_back(weight.const_data_ptr<uint8_t>(), weight.nbytes());
  }
  Tensor out = at::empty({static_cast<int64_t>(stack_size(parts))}, at::kByte);
  pack_stack(parts, out.mutable_data_ptr());
  return out;
}

Tensor unpack_op(const Tensor& weight) {
  PackedStack stack;
  const TensorRef bytes = ref(weight);
  TORCH_CHECK(bytes.type == Type::uint8, "unpack takes uint8 bytes");
  const std::string error = stack.view(bytes.data, weight.nbytes());
  TORCH_CHECK(error.empty(), error);
  Tensor out = matrix(stack.rows(), stack.columns());
  auto* values = out.mutable_data_ptr<float>();
  for (const PackedWeight& w : stack.weights()) {
    unpack(w, values);
    values += w.rows * w.columns;
  }
  return out;
}

std::string isa_op() { return isa_name(); }

// Each operator with its `.out` form, which ExecuTorch calls.
constexpr const char* kSchemas[] = {
    "linear_a8wx(Tensor x, Tensor weight, Tensor? bias, int out_features, bool token_scales",
    "linear_wx(Tensor x, Tensor weight, Tensor? bias, int out_features",
    "linear_fp(Tensor x, Tensor weight, Tensor? bias, int out_features",
    "embedding(Tensor weight, Tensor tokens, int width",
    "rms_norm(Tensor x, Tensor weight, float eps",
    "silu_mul(Tensor gate_up",
    "gelu_mul(Tensor gate_up",
    "add(Tensor a, Tensor b",
    "select_rows(Tensor x, Tensor rows",
    ("attention(Tensor qkv, Tensor cos, Tensor sin, Tensor(a!) key_cache, Tensor(b!) value_cache, "
     "Tensor start_pos, int heads, int kv_heads, int window, bool interleaved"),
};

}  // namespace

Host& current_host() {
  thread_local AtenHost host;
  return host;
}

TORCH_LIBRARY(lowbit, m) {
  for (const std::string schema : kSchemas) {
    const size_t name_end = schema.find('(');
    const std::string out = schema.substr(0, name_end) + ".out" + schema.substr(name_end) +
                            ", *, Tensor(z!) out) -> Tensor(z!)";
    m.def(torch::schema((schema + ") -> Tensor").c_str()));
    m.def(torch::schema(out.c_str()));
  }
  m.def("pack_integer(Tensor values, Tensor scales, Tensor? zeros, int bits, int group_size, "
        "str zeros_kind, bool int8_scales) -> Tensor");
  m.def("pack_float(Tensor values, ScalarType dtype) -> Tensor");
  m.def("pack_stack(Tensor[] weights) -> Tensor");
  m.def("unpack(Tensor weight) -> Tensor");
  m.def("isa() -> str", isa_op);
}

TORCH_LIBRARY_IMPL(lowbit, CPU, m) {
  m.impl("linear_a8wx", linear_a8wx_op);
  m.impl("linear_wx", linear_wx_op);
  m.impl("linear_fp", linear_fp_op);
  m.impl("embedding", embedding_op);
  m.impl("rms_norm", rms_norm_op);
  m.impl("silu_mul", silu_mul_op);
  m.impl("gelu_mul", gelu_mul_op);
  m.impl("add", add_op);
  m.impl("select_rows", select_rows_op);
  m.impl("attention", attention_op);
  m.impl("linear_a8wx.out", linear_a8wx_out);
  m.impl("linear_wx.out", linear_wx_out);
  m.impl("linear_fp.out", linear_fp_out);
  m.impl("embedding.out", embedding_out);
  m.impl("rms_norm.out", rms_norm_out);
  m.impl("silu_mul.out", silu_mul_out);
  m.impl("gelu_mul.out", gelu_mul_out);
  m.impl("add.out", add_out);
  m.impl("select_rows.out", select_rows_out);
  m.impl("attention.out", attention_out);
  m.impl("pack_integer", pack_integer_op);
  m.impl("pack_float", pack_float_op);
  m.impl("pack_stack", pack_stack_op);
  m.impl("unpack", unpack_op);
}

}  // namespace lowbit
