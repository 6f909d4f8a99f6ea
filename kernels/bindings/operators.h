#pragma once

// The table operators.txt in C++: a type op::NAME for each line, from which the bindings are made.

#include <cstdint>

#include "kernels/bindings/calls.h"

namespace lowbit {

// A number in the table's sizes, which may come from a damaged file: what an int64_t cannot hold is
// a CallError.
class Size {
 public:
  Size(int64_t value) : value_(value) {}
  int64_t value() const { return value_; }

  friend Size operator+(Size a, Size b) {
    int64_t sum;
    return __builtin_add_overflow(a.value_, b.value_, &sum) ? none() : Size(sum);
  }
  friend Size operator*(Size a, Size b) {
    int64_t product;
    return __builtin_mul_overflow(a.value_, b.value_, &product) ? none() : Size(product);
  }
  friend Size operator/(Size a, Size b) {
    return b.value_ < 1 ? none() : Size(a.value_ / b.value_);
  }

 private:
  [[noreturn]] static Size none() { throw CallError("lowbit: an operator's result has no size"); }

  int64_t value_;
};

struct MatrixSize {
  Size rows, columns;
};

namespace op {

using Tensor = const TensorRef&;
using OptionalTensor = const TensorRef*;
using Int = Size;
using Float = double;
using Bool = bool;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define LOWBIT_OPERATOR(NAME, ARGUMENTS, SIZES_TEXT, PARAMETERS, NAMES, SIZES)                 \
  struct NAME {                                                                                \
    static constexpr const char *kName = #NAME, *kArguments = ARGUMENTS, *kSizes = SIZES_TEXT; \
    static constexpr auto kCall = call_##NAME;                                                 \
    static MatrixSize size PARAMETERS { return {LOWBIT_LIST SIZES}; }                          \
  };
#include "kernels/bindings/operators.inc"
#undef LOWBIT_OPERATOR
#pragma GCC diagnostic pop

}  // namespace op

// Runs an operator whose arguments a binding has made into TensorRefs and numbers. `make` returns a
// float32 matrix of that many rows and columns for the result.
template <class Op, class Make, class... Arguments>
void run_operator(Make make, const Arguments&... arguments) {
  const MatrixSize size = Op::size(arguments...);
  Op::kCall(current_host(), arguments..., make(size.rows.value(), size.columns.value()));
}

}  // namespace lowbit
