// The operators of the table (operators.txt) as ExecuTorch kernels (`.out` variants), registered
// when this file is linked.

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

#include <algorithm>
#include <array>
#include <new>
#include <optional>
#include <string>

#include "kernels/bindings/operators.h"

namespace lowbit {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::KernelRuntimeContext;

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

// An operator's argument from ExecuTorch's.
template <class Argument>
struct From {
  using Type = Argument;
  static Type of(Type value) { return value; }
};
template <>
struct From<Size> : From<int64_t> {};
template <>
struct From<op::Tensor> {
  using Type = const Tensor&;
  static Ref of(Type tensor) { return Ref(tensor); }
};
template <>
struct From<op::OptionalTensor> {
  using Type = const std::optional<Tensor>&;
  explicit From(Type tensor) {
    if (tensor) value.emplace(*tensor);
  }
  static From of(Type tensor) { return From(tensor); }
  operator const TensorRef*() const { return value ? value->pointer() : nullptr; }
  std::optional<Ref> value;
};

// Rows and columns are at most INT32_MAX.
Ref resized(const char* op, Tensor& out, int64_t rows, int64_t columns) {
  using Extent = Tensor::SizesType;
  const std::array<Extent, 2> sizes{static_cast<Extent>(rows), static_cast<Extent>(columns)};
  if (executorch::runtime::resize_tensor(out, {sizes.data(), sizes.size()}) != Error::Ok) {
    throw CallError(std::string("lowbit::") + op + ": no room for a result of " +
                    std::to_string(rows) + " x " + std::to_string(columns));
  }
  return Ref(out);
}

// An operator's kernel, whose arguments are those of Op::size. A failure fails the model's run.
// What an operator writes in place is a mutable buffer of the model.
template <class Op, class Function = decltype(&Op::size)>
struct Bound;
template <class Op, class... Arguments>
struct Bound<Op, MatrixSize (*)(Arguments...)> {
  static Tensor& out(KernelRuntimeContext& context, typename From<Arguments>::Type... arguments,
                     Tensor& result) {
    try {
      run_operator<Op>(
          [&](int64_t rows, int64_t columns) { return resized(Op::kName, result, rows, columns); },
          From<Arguments>::of(arguments)...);
    } catch (const std::bad_alloc&) {
      context.fail(Error::MemoryAllocationFailed);
    } catch (const std::exception& error) {
      ET_LOG(Error, "%s", error.what());
      context.fail(Error::InvalidArgument);
    }
    return result;
  }
};

#define LOWBIT_OPERATOR(NAME, ...) EXECUTORCH_LIBRARY(lowbit, #NAME ".out", Bound<op::NAME>::out);
#include "kernels/bindings/operators.inc"
#undef LOWBIT_OPERATOR

}  // namespace
}  // namespace lowbit
