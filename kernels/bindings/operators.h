#pragma once

// The table operators.txt in C++: a type op::NAME for each line, from which the bindings are made.

#include <cstdint>

#include "kernels/bindings/calls.h"

namespace lowbit {

// A number in the table's sizes, which may come from a damaged file. What an int64_t cannot hold is
// no number, and so is what is made of it.
class Size {
 public:
  Size(int64_t value) : value_(value) {}
  int64_t value() const { return value_; }
  bool is_number() const { return is_number_; }

  friend Size operator+(Size a, Size b) {
    a.is_number_ &= b.is_number_ & !__builtin_add_overflow(a.value_, b.value_, &a.value_);
    return a;
  }
  friend Size operator*(Size a, Size b) {
    a.is_number_ &= b.is_number_ & !__builtin_mul_overflow(a.value_, b.value_, &a.value_);
    return a;
  }
  friend Size operator/(Size a, Size b) {
    a.is_number_ &= b.is_number_ & (b.value_ > 0);
    if (a.is_number_) a.value_ /= b.value_;
    return a;
  }

 private:
  int64_t value_;
  bool is_number_ = true;
};

struct MatrixSize {
  Size rows, columns;
};

// Throws CallError where a binding must not try to make a result of that size.
void check_result(const char* op, MatrixSize size);

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
  check_result(Op::kName, size);
  Op::kCall(current_host(), arguments..., make(size.rows.value(), size.columns.value()));
}

}  // namespace lowbit
