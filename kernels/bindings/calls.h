#pragma once

// The operators as frameworks call them: dense tensors are checked, then handed to the core. Every
// binding converts its own tensors to these and throws nothing away: a check that fails is a
// CallError that names the operator and the value.
//
// Shapes are those of kernels/lowbit.h; `weight` is uint8 [bytes] (kernels/layout.h).

#include <cstdint>
#include <span>
#include <stdexcept>

#include "kernels/bindings/interface.h"
#include "kernels/lowbit.h"

namespace lowbit {

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

// For each line NAME(ARGUMENTS) of the table operators.txt a function call_NAME(Host&, ARGUMENTS,
// TensorRef out). All throw CallError. An optional tensor is null where there is none; `out` has the
// result's shape. Beyond kernels/lowbit.h:
//   embedding    tokens int64 [1, T]; out [T, width]
//   NAME_mul     limit 0 = none
//   softcap      cap above 0
//   experts_*    x [T chosen, K], the rows of `dispatch`; weight of `experts` times out_features rows,
//                bias [experts out_features]
//   select_rows  out [R, D] = the rows int64 [R] of x [T, D]
//   attention    qkv [T, (H + 2 KV) d], gated [T, (2 H + 2 KV) d]. state int64 [1], the handle of a
//                lowbit::State whose layer `layer` has KV heads of width d; segments int64 [S, 2],
//                those that State::begin() was given, of T tokens together. q_norm [d] or [H d],
//                k_norm [d] or [KV d], sinks [H]. window and softcap 0 = none. What is beyond a
//                float16 cache's range is a CallError, too.
namespace calls {

using Tensor = TensorRef;
using OptionalTensor = const TensorRef*;
using Int = int64_t;
using Float = double;
using Bool = bool;

}  // namespace calls

#define LOWBIT_LIST(...) __VA_ARGS__
#define LOWBIT_OPERATOR(NAME, ARGUMENTS, SIZES_TEXT, PARAMETERS, NAMES, SIZES)     \
  namespace calls {                                                                \
  void call_##NAME(Host& host, LOWBIT_LIST PARAMETERS, TensorRef out);             \
  }                                                                                \
  using calls::call_##NAME;
#include "kernels/bindings/operators.inc"
#undef LOWBIT_OPERATOR

}  // namespace lowbit
