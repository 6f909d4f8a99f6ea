// The operators as plain C functions that AOTInductor's code calls directly
// (`aot_inductor.custom_ops_to_c_shims`; the declarations are in exporter/lowbit/ops.py). Only PyTorch's
// stable C interface is used.

#include "kernels/bindings/aoti.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <new>
#include <optional>
#include <utility>

#include "kernels/bindings/calls.h"

namespace lowbit {
namespace {

thread_local std::string error_text;

void check(AOTITorchError error, const char* what) {
  if (error != 0) throw CallError(std::string("cannot get a tensor's ") + what);
}

Type type_of(int32_t dtype) {
  // Asked once: each is a call of the host's.
  static const std::pair<int32_t, Type> kTypes[] = {{aoti_torch_dtype_float32(), Type::float32},
                                                    {aoti_torch_dtype_uint8(), Type::uint8},
                                                    {aoti_torch_dtype_float16(), Type::float16},
                                                    {aoti_torch_dtype_int64(), Type::int64},
                                                    {aoti_torch_dtype_int8(), Type::int8}};
  for (const auto& [number, type] : kTypes) {
    if (number == dtype) return type;
  }
  return Type::other;
}

TensorRef ref(AtenTensorHandle handle) {
  TensorRef t;
  int64_t dims = 0, *sizes = nullptr, *strides = nullptr;
  int32_t dtype = 0;
  check(aoti_torch_get_data_ptr(handle, &t.data), "data");
  check(aoti_torch_get_dtype(handle, &dtype), "type");
  check(aoti_torch_get_dim(handle, &dims), "dimensions");
  check(aoti_torch_get_sizes(handle, &sizes), "sizes");
  check(aoti_torch_get_strides(handle, &strides), "strides");
  int64_t dense = 1;
  for (int64_t i = dims; i-- > 0;) {
    if (sizes[i] > 1 && strides[i] != dense) throw CallError("a tensor is not dense");
    dense *= sizes[i];
  }
  t.type = type_of(dtype);
  t.sizes = {sizes, static_cast<size_t>(dims)};
  return t;
}

int64_t size(AtenTensorHandle handle, int64_t from_end) {
  int64_t dims = 0, size = 0;
  check(aoti_torch_get_dim(handle, &dims), "dimensions");
  if (from_end >= dims) return 0;
  check(aoti_torch_get_size(handle, dims - 1 - from_end, &size), "sizes");
  return size;
}

// Allocates a float32 result [rows, columns], calls f with it, and hands it over.
template <class F>
AOTITorchError run(AtenTensorHandle* result, F f) {
  try {
    const auto [rows, columns, call] = f();
    const int64_t sizes[] = {rows, columns}, strides[] = {columns, 1};
    AtenTensorHandle out = nullptr;
    if (aoti_torch_empty_strided(2, sizes, strides, aoti_torch_dtype_float32(),
                                 aoti_torch_device_type_cpu(), 0, &out) != 0) {
      throw std::bad_alloc();
    }
    try {
      call(ref(out));
    } catch (...) {
      aoti_torch_delete_tensor_object(out);
      throw;
    }
    *result = out;
    return 0;
  } catch (const std::bad_alloc&) {
    error_text = kOutOfMemory;
    return 1;
  } catch (const std::exception& error) {
    error_text = error.what();
    return 1;
  }
}

template <class F>
struct Call {
  int64_t rows, columns;
  F call;
};
template <class F>
Call(int64_t, int64_t, F) -> Call<F>;

}  // namespace

const std::string& last_error() { return error_text; }
void clear_last_error() { error_text.clear(); }

}  // namespace lowbit

using lowbit::Call;
using lowbit::current_host;
using lowbit::ref;
using lowbit::run;
using lowbit::size;
using lowbit::TensorRef;

extern "C" {

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_linear_a8wx(AtenTensorHandle x, AtenTensorHandle weight,
                                                 AtenTensorHandle* bias, int64_t out_features,
                                                 int32_t token_scales, AtenTensorHandle* result) {
  return run(result, [&] {
    return Call{size(x, 1), out_features, [=](TensorRef out) {
                  const TensorRef b = bias ? ref(*bias) : TensorRef{};
                  lowbit::call_linear_a8wx(current_host(), ref(x), ref(weight), bias ? &b : nullptr,
                                           out_features, token_scales != 0, out);
                }};
  });
}

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_linear_wx(AtenTensorHandle x, AtenTensorHandle weight,
                                               AtenTensorHandle* bias, int64_t out_features,
                                               AtenTensorHandle* result) {
  return run(result, [&] {
    return Call{size(x, 1), out_features, [=](TensorRef out) {
                  const TensorRef b = bias ? ref(*bias) : TensorRef{};
                  lowbit::call_linear_wx(current_host(), ref(x), ref(weight), bias ? &b : nullptr,
                                         out_features, out);
                }};
  });
}

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_linear_fp(AtenTensorHandle x, AtenTensorHandle weight,
                                               AtenTensorHandle* bias, int64_t out_features,
                                               AtenTensorHandle* result) {
  return run(result, [&] {
    return Call{size(x, 1), out_features, [=](TensorRef out) {
                  const TensorRef b = bias ? ref(*bias) : TensorRef{};
                  lowbit::call_linear_fp(current_host(), ref(x), ref(weight), bias ? &b : nullptr,
                                         out_features, out);
                }};
  });
}

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_embedding(AtenTensorHandle weight, AtenTensorHandle tokens,
                                               int64_t width, AtenTensorHandle* result) {
  return run(result, [&] {
    return Call{size(tokens, 0), width, [=](TensorRef out) {
                  lowbit::call_embedding(current_host(), ref(weight), ref(tokens), width, out);
                }};
  });
}

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_rms_norm(AtenTensorHandle x, AtenTensorHandle weight,
                                              double eps, AtenTensorHandle* result) {
  return run(result, [&] {
    return Call{size(x, 1), size(x, 0), [=](TensorRef out) {
                  lowbit::call_rms_norm(current_host(), ref(x), ref(weight), eps, out);
                }};
  });
}

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_silu_mul(AtenTensorHandle gate_up, AtenTensorHandle* result) {
  return run(result, [&] {
    return Call{size(gate_up, 1), size(gate_up, 0) / 2, [=](TensorRef out) {
                  lowbit::call_silu_mul(current_host(), ref(gate_up), out);
                }};
  });
}

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_gelu_mul(AtenTensorHandle gate_up, AtenTensorHandle* result) {
  return run(result, [&] {
    return Call{size(gate_up, 1), size(gate_up, 0) / 2, [=](TensorRef out) {
                  lowbit::call_gelu_mul(current_host(), ref(gate_up), out);
                }};
  });
}

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_add(AtenTensorHandle a, AtenTensorHandle b,
                                         AtenTensorHandle* result) {
  return run(result, [&] {
    return Call{size(a, 1), size(a, 0), [=](TensorRef out) {
                  lowbit::call_add(current_host(), ref(a), ref(b), out);
                }};
  });
}

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_select_rows(AtenTensorHandle x, AtenTensorHandle rows,
                                                 AtenTensorHandle* result) {
  return run(result, [&] {
    return Call{size(rows, 0), size(x, 0), [=](TensorRef out) {
                  lowbit::call_select_rows(current_host(), ref(x), ref(rows), out);
                }};
  });
}

AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_attention(AtenTensorHandle qkv, AtenTensorHandle cos,
                                               AtenTensorHandle sin, AtenTensorHandle key_cache,
                                               AtenTensorHandle value_cache,
                                               AtenTensorHandle start_pos, int64_t heads,
                                               int64_t kv_heads, int64_t window,
                                               int32_t interleaved, AtenTensorHandle* result) {
  return run(result, [&] {
    if (heads + 2 * kv_heads <= 0) throw lowbit::CallError("lowbit::attention: no heads");
    return Call{size(qkv, 1), size(qkv, 0) / (heads + 2 * kv_heads) * heads, [=](TensorRef out) {
                  lowbit::call_attention(current_host(), ref(qkv), ref(cos), ref(sin),
                                         ref(key_cache), ref(value_cache), ref(start_pos), heads,
                                         kv_heads, window, interleaved != 0, out);
                }};
  });
}

}  // extern "C"
