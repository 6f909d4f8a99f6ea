#pragma once

// The operators as frameworks call them: dense tensors are checked, then handed to the core. Every
// binding converts its own tensors to these and throws nothing away: a check that fails is a
// CallError that names the operator and the value.
//
// Shapes are those of kernels/lowbit.h; `weight` is uint8 [bytes] (kernels/layout.h).

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include "kernels/lowbit.h"

namespace lowbit {

// Of the operators' arguments and of what they mean. An artifact holds the number that it was made
// for, and only a runner of the same number runs it.
inline constexpr int kInterfaceVersion = 2;

enum class Type { float32, float16, int8, uint8, int64, other };

// A dense, row major tensor of at most 4 dimensions.
struct TensorRef {
  void* data = nullptr;
  Type type = Type::other;
  std::span<const int64_t> sizes;

  // The size of dimension `i`; 0 where there is none.
  int64_t operator[](size_t i) const { return i < sizes.size() ? sizes[i] : 0; }
};

class CallError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// All throw CallError. `bias` is null where there is none; `out` has the result's shape.
void call_linear_a8wx(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias,
                      int64_t out_features, bool token_scales, TensorRef out);
void call_linear_wx(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias,
                    int64_t out_features, TensorRef out);
void call_linear_fp(Host& host, TensorRef x, TensorRef weight, const TensorRef* bias,
                    int64_t out_features, TensorRef out);
// tokens int64 [1, T]; out [T, width].
void call_embedding(Host& host, TensorRef weight, TensorRef tokens, int64_t width, double scale,
                    TensorRef out);
void call_rms_norm(Host& host, TensorRef x, TensorRef weight, double eps, TensorRef out);
// limit 0 = none.
void call_silu_mul(Host& host, TensorRef gate_up, double limit, TensorRef out);
void call_gelu_mul(Host& host, TensorRef gate_up, double limit, TensorRef out);
void call_gelu_tanh_mul(Host& host, TensorRef gate_up, double limit, TensorRef out);
void call_relu2_mul(Host& host, TensorRef gate_up, double limit, TensorRef out);
void call_add(Host& host, TensorRef a, TensorRef b, TensorRef out);
// out [R, D] = the rows int64 [R] of x [T, D].
void call_select_rows(Host& host, TensorRef x, TensorRef rows, TensorRef out);
// qkv [T, (H + 2 KV) d], gated [T, (2 H + 2 KV) d]. cos, sin [C, rotary_dim / 2]: none, or of no
// columns, where nothing is rotated. Caches float32 or float16 [KV, blocks, 16 * padded d], or int8
// [KV, blocks, bytes of a block]; start_pos int64 [1]. q_norm [d] or [H d], k_norm [d] or [KV d],
// sinks [H]. window and softcap 0 = none. What is beyond a float16 cache's range is a CallError,
// too.
void call_attention(Host& host, TensorRef qkv, const TensorRef* cos, const TensorRef* sin,
                    TensorRef key_cache, TensorRef value_cache, TensorRef start_pos,
                    const TensorRef* q_norm, const TensorRef* k_norm, const TensorRef* sinks,
                    int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                    bool interleaved, bool gated, double norm_eps, double scale, double softcap,
                    TensorRef out);

// The host of this program; each program that links the bindings defines it.
Host& current_host();

}  // namespace lowbit
