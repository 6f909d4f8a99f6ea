#pragma once

// What the checked calls ask of their tensors and numbers. `op` is the operator that a CallError
// names.

#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>

#include "kernels/bindings/calls.h"

namespace lowbit {

[[noreturn]] void fail(const char* op, const std::string& what);

// A size of -1 in `sizes` fits any.
void expect(const char* op, const char* name, const TensorRef& t, Type type,
            std::initializer_list<int64_t> sizes);

template <class T>
T* data(const TensorRef& t) {
  return static_cast<T*>(t.data);
}
template <class T>
T* data(const TensorRef* t) {
  return t == nullptr ? nullptr : static_cast<T*>(t->data);
}

// A weight's packed bytes.
PackedStack packed(const char* op, const TensorRef& weight);

// Refuses weights that linear_a8wx, linear_wx or linear_fp does not take.
void expect_a8wx(const char* op, const PackedWeight& weight, bool token_scales);
void expect_wx(const char* op, const PackedWeight& weight);
void expect_fp(const char* op, const PackedWeight& weight);

// A number of the model: finite as float32, and at least `least`.
float number(const char* op, const char* name, double value, double least);
inline constexpr double kAny = -std::numeric_limits<double>::infinity();

}  // namespace lowbit
