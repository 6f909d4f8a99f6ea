#pragma once

// Tensors and wrong calls, for the tests of the checks between frameworks and kernels.

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/bindings/calls.h"
#include "tests/cpp/check.h"

namespace kernel_test {

using lowbit::CallError;
using lowbit::TensorRef;
using lowbit::Type;

// A tensor that owns zeros, or the values given.
struct Tensor {
  std::vector<int64_t> sizes;
  Type type;
  std::vector<uint8_t> bytes;

  Tensor(Type t, std::vector<int64_t> s, std::vector<int64_t> integers = {})
      : sizes(std::move(s)), type(t) {
    size_t n = 8;
    for (const int64_t size : sizes) n *= static_cast<size_t>(size);
    bytes.resize(n);
    if (!integers.empty()) std::memcpy(bytes.data(), integers.data(), integers.size() * 8);
  }
  operator TensorRef() { return {bytes.data(), type, sizes}; }
};

inline Tensor floats(std::vector<int64_t> sizes) { return {Type::float32, std::move(sizes)}; }
inline Tensor integers(std::vector<int64_t> sizes, std::vector<int64_t> values) {
  return {Type::int64, std::move(sizes), std::move(values)};
}

// Calls, each with one thing wrong.
struct Wrong {
  const char* what;
  std::function<void()> call;
};

inline void check_refused(const char* op, const std::vector<Wrong>& calls) {
  for (const Wrong& wrong : calls) {
    try {
      wrong.call();
      check::fail(__FILE__, __LINE__, std::string(op) + " takes " + wrong.what);
    } catch (const CallError& error) {
      const std::string message = error.what();
      const std::string begin = "lowbit::" + std::string(op) + ": ";
      if (!message.starts_with(begin) || message.size() == begin.size() ||
          message.find('\n') != std::string::npos) {
        check::fail(__FILE__, __LINE__, std::string(wrong.what) + ": " + message);
      }
    }
  }
}

}  // namespace kernel_test
