// The operators as ExecuTorch kernels (`.out` variants), registered when this file is linked.

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

#include <array>
#include <new>
#include <optional>

#include "kernels/bindings/calls.h"

namespace lowbit {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::KernelRuntimeContext;
using OptionalTensor = std::optional<Tensor>;

// A tensor's sizes, widened, beside the reference to them.
class Ref {
 public:
  explicit Ref(const Tensor& t) {
    const size_t dims = std::min<size_t>(t.dim(), sizes_.size());
    for (size_t i = 0; i < dims; ++i) sizes_[i] = t.size(static_cast<ssize_t>(i));
    ref_ = {const_cast<void*>(t.const_data_ptr()), type_of(t.scalar_type()), {sizes_.data(), dims}};
  }
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;

  operator TensorRef() const { return ref_; }
  const TensorRef* pointer() const { return &ref_; }

 private:
  static Type type_of(ScalarType type) {
    switch (type) {
      case ScalarType::Float: return Type::float32;
      case ScalarType::Half: return Type::float16;
      case ScalarType::Char: return Type::int8;
      case ScalarType::Byte: return Type::uint8;
      case ScalarType::Long: return Type::int64;
      default: return Type::other;
    }
  }

  std::array<int64_t, 4> sizes_{};
  TensorRef ref_;
};

// Resizes `out` to [rows, columns] and calls f; a failure fails the model's run.
template <class F>
Tensor& run(KernelRuntimeContext& context, Tensor& out, int64_t rows, int64_t columns, F f) {
  using Size = Tensor::SizesType;
  const std::array<Size, 2> sizes{static_cast<Size>(rows), static_cast<Size>(columns)};
  if (executorch::runtime::resize_tensor(out, {sizes.data(), sizes.size()}) != Error::Ok) {
    ET_LOG(Error, "lowbit: no room for a result of %d x %d", static_cast<int>(rows),
           static_cast<int>(columns));
    context.fail(Error::InvalidArgument);
    return out;
  }
  try {
    f();
  } catch (const std::bad_alloc&) {
    context.fail(Error::MemoryAllocationFailed);
  } catch (const std::exception& error) {
    ET_LOG(Error, "%s", error.what());
    context.fail(Error::InvalidArgument);
  }
  return out;
}

int64_t first_size(const Tensor& t) { return t.dim() > 0 ? t.size(0) : 0; }
int64_t last_size(const Tensor& t) { return t.dim() > 0 ? t.size(t.dim() - 1) : 0; }

Tensor& linear_a8wx_out(KernelRuntimeContext& context, const Tensor& x, const Tensor& weight,
                        const OptionalTensor& bias, int64_t out_features, bool token_scales,
                        Tensor& out) {
  return run(context, out, first_size(x), out_features, [&] {
    std::optional<Ref> b;
    if (bias) b.emplace(*bias);
    call_linear_a8wx(current_host(), Ref(x), Ref(weight), b ? b->pointer() : nullptr, out_features,
                     token_scales, Ref(out));
  });
}

Tensor& linear_wx_out(KernelRuntimeContext& context, const Tensor& x, const Tensor& weight,
                      const OptionalTensor& bias, int64_t out_features, Tensor& out) {
  return run(context, out, first_size(x), out_features, [&] {
    std::optional<Ref> b;
    if (bias) b.emplace(*bias);
    call_linear_wx(current_host(), Ref(x), Ref(weight), b ? b->pointer() : nullptr, out_features,
                   Ref(out));
  });
}

Tensor& linear_fp_out(KernelRuntimeContext& context, const Tensor& x, const Tensor& weight,
                      const OptionalTensor& bias, int64_t out_features, Tensor& out) {
  return run(context, out, first_size(x), out_features, [&] {
    std::optional<Ref> b;
    if (bias) b.emplace(*bias);
    call_linear_fp(current_host(), Ref(x), Ref(weight), b ? b->pointer() : nullptr, out_features,
                   Ref(out));
  });
}

Tensor& embedding_out(KernelRuntimeContext& context, const Tensor& weight, const Tensor& tokens,
                      int64_t width, Tensor& out) {
  return run(context, out, last_size(tokens), width, [&] {
    call_embedding(current_host(), Ref(weight), Ref(tokens), width, Ref(out));
  });
}

Tensor& rms_norm_out(KernelRuntimeContext& context, const Tensor& x, const Tensor& weight,
                     double eps, Tensor& out) {
  return run(context, out, first_size(x), last_size(x), [&] {
    call_rms_norm(current_host(), Ref(x), Ref(weight), eps, Ref(out));
  });
}

Tensor& silu_mul_out(KernelRuntimeContext& context, const Tensor& gate_up, Tensor& out) {
  return run(context, out, first_size(gate_up), last_size(gate_up) / 2,
             [&] { call_silu_mul(current_host(), Ref(gate_up), Ref(out)); });
}

Tensor& gelu_mul_out(KernelRuntimeContext& context, const Tensor& gate_up, Tensor& out) {
  return run(context, out, first_size(gate_up), last_size(gate_up) / 2,
             [&] { call_gelu_mul(current_host(), Ref(gate_up), Ref(out)); });
}

Tensor& add_out(KernelRuntimeContext& context, const Tensor& a, const Tensor& b, Tensor& out) {
  return run(context, out, first_size(a), last_size(a),
             [&] { call_add(current_host(), Ref(a), Ref(b), Ref(out)); });
}

Tensor& select_rows_out(KernelRuntimeContext& context, const Tensor& x, const Tensor& rows,
                        Tensor& out) {
  return run(context, out, first_size(rows), last_size(x),
             [&] { call_select_rows(current_host(), Ref(x), Ref(rows), Ref(out)); });
}

// The caches are written in place: they are the model's mutable buffers.
Tensor& attention_out(KernelRuntimeContext& context, const Tensor& qkv, const Tensor& cos,
                      const Tensor& sin, const Tensor& key_cache, const Tensor& value_cache,
                      const Tensor& start_pos, int64_t heads, int64_t kv_heads, int64_t window,
                      bool interleaved, Tensor& out) {
  const int64_t all_heads = heads + 2 * kv_heads;
  const int64_t width = all_heads > 0 ? last_size(qkv) / all_heads * heads : 0;
  return run(context, out, first_size(qkv), width, [&] {
    call_attention(current_host(), Ref(qkv), Ref(cos), Ref(sin), Ref(key_cache), Ref(value_cache),
                   Ref(start_pos), heads, kv_heads, window, interleaved, Ref(out));
  });
}

EXECUTORCH_LIBRARY(lowbit, "linear_a8wx.out", linear_a8wx_out);
EXECUTORCH_LIBRARY(lowbit, "linear_wx.out", linear_wx_out);
EXECUTORCH_LIBRARY(lowbit, "linear_fp.out", linear_fp_out);
EXECUTORCH_LIBRARY(lowbit, "embedding.out", embedding_out);
EXECUTORCH_LIBRARY(lowbit, "rms_norm.out", rms_norm_out);
EXECUTORCH_LIBRARY(lowbit, "silu_mul.out", silu_mul_out);
EXECUTORCH_LIBRARY(lowbit, "gelu_mul.out", gelu_mul_out);
EXECUTORCH_LIBRARY(lowbit, "add.out", add_out);
EXECUTORCH_LIBRARY(lowbit, "select_rows.out", select_rows_out);
EXECUTORCH_LIBRARY(lowbit, "attention.out", attention_out);

}  // namespace
}  // namespace lowbit
