#pragma once

// The project's operators on packed weights: pointers, sizes and strides, no framework.
//
// Bit-identity: each function gives the same bits on every instruction set, for every number of
// threads, and for a prompt taken in one chunk, in several or token by token. Integer dot products
// are exact; floats are combined in one fixed order with explicit fused multiply-adds; threads
// split rows, heads or tokens, never a sum.
//
// Shape letters: T tokens, K columns (inputs) and N rows (outputs) of a weight, D model width,
// H query heads, KV key/value heads, d head width, C context. Matrices are row major, dense.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/layout.h"

namespace lowbit {

// What an operator needs of the program that calls it. The core starts no threads and allocates
// nothing.
class Host {
 public:
  virtual ~Host() = default;

  // Calls task(context, begin, end) for parts that cover 0..n, each at least `grain` long but the
  // last, on any thread and in any order; returns when all are done.
  virtual void parallel_for(int64_t n, int64_t grain,
                            void (*task)(void* context, int64_t begin, int64_t end),
                            void* context) = 0;

  // Uninitialised memory aligned to 64 bytes, the caller's until it asks again.
  // Throws std::bad_alloc.
  virtual void* scratch(size_t bytes) = 0;
};

// How the activations of linear_a8wx become int8.
enum class ActivationScales {
  group,  // symmetric, one scale for each group of the weight's columns
  token,  // one scale and zero point a token (torchao's Int8DynamicActivation, asymmetric)
};

// out [T, N] = x [T, K] weight^T + bias. `bias` is float32 [N] or null.
// Weights of kind `integer`: activations are quantized to int8 and multiplied as integers. Two
// tokens' outputs lie `weight.output_stride` apart: one weight of a stack fills its own columns.
void linear_a8wx(Host& host, const float* x, int64_t tokens, const PackedWeight& weight,
                 ActivationScales scales, const float* bias, float* out);
// Weights of kind `integer` (4 and 8 bits): activations stay float.
void linear_wx(Host& host, const float* x, int64_t tokens, const PackedWeight& weight,
               const float* bias, float* out);
// Weights of kind `float32`, `bfloat16` or `float16`.
void linear_fp(Host& host, const float* x, int64_t tokens, const PackedWeight& weight,
               const float* bias, float* out);

inline constexpr int64_t kMaxExperts = 1024;  // of a layer

// A mixture of experts: E matrices of one layer, of which each token goes through `chosen`. `routes`
// [T, 2 chosen] has for each token the numbers of its experts, the likeliest first, and then what
// their results are multiplied by.
struct Routes {
  const float* data;
  int64_t tokens, chosen;
};

// The rows of all pairs of a token and an expert that it chose, those of an expert together: expert
// e's are `begin(e)` to `begin(e + 1)`, in the order of its tokens.
class ExpertRows {
 public:
  // Returns false where a number in `routes` is no expert's of 0..experts - 1, which is at most
  // kMaxExperts.
  [[nodiscard]] bool count(const Routes& routes, int64_t experts);
  int64_t experts() const { return experts_; }
  int64_t begin(int64_t expert) const { return begins_[static_cast<size_t>(expert)]; }
  int64_t size(int64_t expert) const { return begin(expert + 1) - begin(expert); }
  int64_t total() const { return begin(experts_); }
  // rows [T, chosen]: the row of each pair of these routes.
  void place(const Routes& routes, int32_t* rows) const;

 private:
  int64_t experts_ = 0;
  std::array<int32_t, kMaxExperts + 1> begins_;
};

// out [T, 2 chosen]: the experts with the largest of the logits [T, E], the first among equals, and
// the softmax of all logits at them; with `renormalize` that of theirs alone. Of logits of which one
// is NaN or the largest is not finite, the first experts, times NaN.
void route(Host& host, const float* logits, int64_t tokens, int64_t experts, int64_t chosen,
           bool renormalize, float* out);
// out [T chosen, K] = each token's row of x [T, K] at the rows of its pairs.
void dispatch(Host& host, const float* x, int64_t width, const Routes& routes,
              const ExpertRows& rows, float* out);
// out [T chosen, N] = each row of x [T chosen, K] times its expert's matrix, as the linear operators
// compute it, plus its expert's row of `bias` [E, N], which may be null. `weight` [E N, K] has the
// experts' rows one after the other; N is a multiple of 16.
void experts_a8wx(Host& host, const float* x, const ExpertRows& rows, const PackedWeight& weight,
                  ActivationScales scales, const float* bias, float* out);
void experts_wx(Host& host, const float* x, const ExpertRows& rows, const PackedWeight& weight,
                const float* bias, float* out);
void experts_fp(Host& host, const float* x, const ExpertRows& rows, const PackedWeight& weight,
                const float* bias, float* out);
// out [T, N] = the sum of each token's rows of x [T chosen, N], times the routes' factors, in the
// order in which they stand there.
void combine(Host& host, const float* x, int64_t width, const Routes& routes,
             const ExpertRows& rows, float* out);

// out [T, K] = the rows `tokens` of a stack of weights of any kind, of the same width, times
// `scale`. Returns false when a token is not a row.
[[nodiscard]] bool embedding(Host& host, const int64_t* tokens, int64_t n_tokens,
                             std::span<const PackedWeight> weights, float scale, float* out);
[[nodiscard]] inline bool embedding(Host& host, const int64_t* tokens, int64_t n_tokens,
                                    const PackedWeight& weight, float* out) {
  return embedding(host, tokens, n_tokens, std::span(&weight, 1), 1, out);
}

// out [T, D] = x / sqrt(mean(x^2) + eps) * weight.
void rms_norm(Host& host, const float* x, int64_t tokens, int64_t width, const float* weight,
              float eps, float* out);

// out [T, D] = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias; `bias` is float32
// [D] or null.
void layer_norm(Host& host, const float* x, int64_t tokens, int64_t width, const float* weight,
                const float* bias, float eps, float* out);

enum class Activation {
  silu,
  gelu,       // x Phi(x); off by less than 1e-6 of max(1, |x|)
  gelu_tanh,  // its approximation by tanh
  relu2,      // max(x, 0)^2; NaN of minus infinity
  quick_gelu,  // x sigmoid(1.702 x)
  sigmoid,    // of an attention's gates; NaN of what is not finite
};

// out [n] = activation(x).
void activate(Host& host, Activation activation, const float* x, int64_t n, float* out);

// An activation with learned parameters (arXiv 2411.13010): alpha_p x^2 + beta x above 0 and
// alpha_n (exp(min(x, eps)) - 1 - x) + beta x below; `eps` is not positive.
struct Xielu {
  float alpha_p, alpha_n, beta, eps;
};

// out [n] = xielu(x).
void xielu(Host& host, const float* x, int64_t n, const Xielu& parameters, float* out);

// out [T, F] = activation(gate) * (up + offset) for gate_up [T, 2 F] = (gate, up), with `gate` cut to
// at most `limit` and `up` to -limit..limit; 0 = not at all.
void gate_mul(Host& host, Activation activation, const float* gate_up, int64_t tokens,
              int64_t width, float limit, float offset, float* out);

// out [n] = a + b.
void add(Host& host, const float* a, const float* b, int64_t n, float* out);

// out [n] = cap tanh(x / cap), for a `cap` above 0; NaN of what is not finite.
void softcap(Host& host, const float* x, int64_t n, float cap, float* out);

// out [T] = the natural logarithm of softmax(x) at `targets` [T], for logits x [T, V]; off by less
// than 1e-5. Minus infinity where the target's logit is; NaN where a logit of the row is NaN, or
// the largest is not finite. Targets are from 0 to V - 1.
void log_softmax_at(Host& host, const float* x, int64_t tokens, int64_t width,
                    const int64_t* targets, float* out);

enum class CacheType { float32, float16, int8, int4 };

inline constexpr int64_t kBlock = 16;  // positions in a block of the cache

// The KV cache of one layer, of all sessions: blocks of 16 positions for each key/value head. A key
// block is [d][16], a value block [16][d rounded up to 16]; int8 blocks end with 16 float32 scales,
// one a position.
//
// int4 blocks are of vectors turned by a Hadamard matrix (impl/int4_cache.h), with d rounded up to
// 32: bytes [d / 8][16][4] of keys, of which byte j has the elements j and j + 4 of a position's
// eight; [d / 32][4][16][4] of values, of which byte [q][c][i] has the elements c and c + 16 of
// position 4 q + i; the first in the low half. Then a bfloat16 step and a bfloat16 least for each
// of 16 positions.
struct Cache {
  CacheType type;
  void* keys;      // [KV][blocks][cache_block_bytes(type, d)]
  void* values;    // the same
  int64_t blocks;
};
int64_t cache_block_bytes(CacheType type, int64_t head_dim);

// Clears positions [from, 16) of a block of keys or of values.
void clear_positions(CacheType type, bool keys, int64_t head_dim, int64_t from, void* block);

inline constexpr int64_t kMaxHeadDim = 512;

// An RMS norm of queries or keys, of each head by itself or of all as one row.
struct HeadNorm {
  const float* weight = nullptr;  // [d] or [heads d]; null: no norm
  bool by_head = true;
};

// What queries are multiplied by at their positions, beside the scores' scale.
struct QueryFactors {
  const float* values = nullptr;  // null: nothing
  int64_t span = 1;               // positions that share a factor

  float at(int64_t position) const { return values == nullptr ? 1.0f : values[position / span]; }
};

struct AttentionShape {
  int64_t heads, kv_heads, head_dim;  // heads / kv_heads is whole; head_dim <= kMaxHeadDim
  int64_t rotary_dim;                 // even, at most head_dim; the rest is not rotated
  bool interleaved;                   // pairs (2 i, 2 i + 1) instead of (i, i + rotary_dim / 2)
  int64_t window;                     // positions a token may look back, itself included; 0 = all
  float scale = 0;                    // what scores are multiplied by, usually 1 / sqrt(d)
  float softcap = 0;                  // c > 0: scores become c tanh(score / c)
  bool gated = false;                 // H d more columns of qkv: out *= sigmoid of them
  HeadNorm q_norm = {}, k_norm = {};  // before the rotation
  float norm_eps = 0;
  const float* sinks = nullptr;  // [H]: one more logit in each head's softmax, without a value
  QueryFactors query_factors = {};
};

// The tokens of one session in a forward: `tokens` of them at the positions from `start` on. Position p
// lies in the cache's block number blocks[p / 16].
struct Segment {
  int64_t tokens, start;
  const int32_t* blocks;
};

// Normalizes queries and keys of qkv [T, (H + 2 KV) d], or [T, (2 H + 2 KV) d] with gates, rotates
// them by the tables cos and sin [C, rotary_dim / 2], multiplies queries by their positions' factors,
// writes keys and values at their positions, and attends: out [T, H d] = softmax(scale q k^T) v over
// the positions of the token's session up to its own. The T tokens are those of `segments`, one after
// the other; what one gets does not depend on the others.
void attention(Host& host, const float* qkv, std::span<const Segment> segments, const float* cos,
               const float* sin, const AttentionShape& shape, const Cache& cache, float* out);

// The instruction set in use: the best this CPU has, or the one that LOWBIT_ISA names. Throws
// std::runtime_error when that is unknown or not to be had here.
const char* isa_name();

}  // namespace lowbit
