// The operators in PyTorch: those of the table (operators.txt), and packing. exporter/lowbit/ops.py makes
// what tracing needs of the table's sizes.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/bindings/operators.h"

namespace lowbit {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Threads and scratch memory from PyTorch. One for each calling thread, so that two threads may
// run models side by side.
class AtenHost final : public Host {
 public:
  void parallel_for(int64_t n, int64_t grain, void (*task)(void*, int64_t, int64_t),
                    void* context) override {
    at::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) { task(context, begin, end); });
  }
  void* scratch(size_t bytes) override {
    if (!memory_.defined() || memory_.nbytes() < bytes) {
      memory_ = at::empty({static_cast<int64_t>(bytes)}, at::kByte);
    }
    return memory_.data_ptr();
  }

 private:
  Tensor memory_;
};

TensorRef ref(const Tensor& t) {
  TORCH_CHECK(t.device().is_cpu(), "lowbit operators run on the CPU, not on ", t.device());
  TORCH_CHECK(t.is_contiguous(), "lowbit operators take contiguous tensors");
  const auto type = [&] {
    switch (t.scalar_type()) {
      case at::kFloat: return Type::float32;
      case at::kHalf: return Type::float16;
      case at::kChar: return Type::int8;
      case at::kByte: return Type::uint8;
      case at::kLong: return Type::int64;
      default: return Type::other;
    }
  }();
  return {t.data_ptr(), type, {t.sizes().data(), t.sizes().size()}};
}

Tensor matrix(int64_t rows, int64_t columns) { return at::empty({rows, columns}, at::kFloat); }

// An operator's argument from PyTorch's.
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
  static TensorRef of(Type tensor) { return ref(tensor); }
};
template <>
struct From<op::OptionalTensor> {
  using Type = const std::optional<Tensor>&;
  explicit From(Type tensor) : there(tensor), value(tensor ? ref(*tensor) : TensorRef{}) {}
  static From of(Type tensor) { return From(tensor); }
  operator const TensorRef*() const { return there ? &value : nullptr; }
  bool there;
  TensorRef value;
};

// The functions of an operator, whose arguments are those of Op::size.
template <class Op, class Function = decltype(&Op::size)>
struct Bound;
template <class Op, class... Arguments>
struct Bound<Op, MatrixSize (*)(Arguments...)> {
  static Tensor& out(typename From<Arguments>::Type... arguments, Tensor& result) {
    run_operator<Op>([&](int64_t, int64_t) { return ref(result); },
                     From<Arguments>::of(arguments)...);
    return result;
  }
  static Tensor make(typename From<Arguments>::Type... arguments) {
    Tensor result;
    run_operator<Op>(
        [&](int64_t rows, int64_t columns) {
          result = matrix(rows, columns);
          return ref(result);
        },
        From<Arguments>::of(arguments)...);
    return result;
  }
};

// Each operator with its `.out` form, which ExecuTorch calls.
template <class Op>
void define(torch::Library& m) {
  const std::string name = Op::kName, arguments = "(" + std::string(Op::kArguments);
  const std::string out = name + ".out";
  m.def(torch::schema((name + arguments + ") -> Tensor").c_str()));
  m.def(torch::schema((out + arguments + ", *, Tensor(z!) out) -> Tensor(z!)").c_str()));
  m.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CPU, Bound<Op>::make));
  m.impl(out.c_str(), torch::dispatch(c10::DispatchKey::CPU, Bound<Op>::out));
}

// "NAME ROWS, COLUMNS" of every operator.
std::vector<std::string> operators_op() {
  std::vector<std::string> lines;
#define LOWBIT_OPERATOR(NAME, ...) \
  lines.push_back(op::NAME::kName + std::string(" ") + op::NAME::kSizes);
#include "kernels/bindings/operators.inc"
#undef LOWBIT_OPERATOR
  return lines;
}

// --- Packing --------------------------------------------------------------------------------------

Zeros zeros_of(c10::string_view kind) {
  if (kind == "none") return Zeros::none;
  if (kind == "integer") return Zeros::integer;
  if (kind == "real") return Zeros::real;
  TORCH_CHECK(kind == "between", "zeros are none, integer, real or between, not ", kind);
  return Zeros::between;
}

Tensor pack_integer_op(const Tensor& values, const Tensor& scales, const OptionalTensor& zeros,
                       int64_t bits, int64_t group_size, c10::string_view zeros_kind,
                       bool int8_scales) {
  TORCH_CHECK(values.dim() == 2 && values.scalar_type() == at::kByte && values.is_contiguous(),
              "pack_integer takes contiguous uint8 values [N, K]");
  TORCH_CHECK(bits >= 1 && bits <= 8 && group_size >= 16 && group_size % 16 == 0,
              "pack_integer takes 1 to 8 bits and groups of a multiple of 16");
  const int64_t groups = (values.size(1) + group_size - 1) / group_size;
  const auto fits = [&](const Tensor& t) {
    return t.dim() == 2 && t.size(0) == values.size(0) && t.size(1) == groups &&
           t.scalar_type() == at::kFloat && t.is_contiguous();
  };
  TORCH_CHECK(fits(scales) && (!zeros || fits(*zeros)),
              "pack_integer takes contiguous float32 scales and zeros [N, G]");
  const Format format{Kind::integer, static_cast<uint32_t>(bits), static_cast<uint32_t>(group_size),
                      zeros_of(zeros_kind),
                      int8_scales ? Scales::int8 : Scales::float16};
  Tensor out = at::empty(
      {static_cast<int64_t>(packed_size(format, values.size(0), values.size(1)))}, at::kByte);
  pack_integer(format, values.size(0), values.size(1), values.const_data_ptr<uint8_t>(),
               scales.const_data_ptr<float>(), zeros ? zeros->const_data_ptr<float>() : nullptr,
               out.data_ptr());
  return out;
}

Tensor pack_float_op(const Tensor& values, at::ScalarType dtype) {
  TORCH_CHECK(values.dim() == 2 && values.scalar_type() == at::kFloat && values.is_contiguous(),
              "pack_float takes contiguous float32 values [N, K]");
  Format format{Kind::float32, 32, 0, Zeros::none};
  if (dtype == at::kHalf) {
    format = {Kind::float16, 16, 0, Zeros::none};
  } else if (dtype == at::kBFloat16) {
    format = {Kind::bfloat16, 16, 0, Zeros::none};
  } else {
    TORCH_CHECK(dtype == at::kFloat, "pack_float packs float32, float16 or bfloat16, not ", dtype);
  }
  Tensor out = at::empty(
      {static_cast<int64_t>(packed_size(format, values.size(0), values.size(1)))}, at::kByte);
  pack_float(format, values.size(0), values.size(1), values.const_data_ptr<float>(),
             out.data_ptr());
  return out;
}

Tensor pack_stack_op(at::TensorList weights) {
  std::vector<std::span<const uint8_t>> parts;
  for (const Tensor& weight : weights) {
    TORCH_CHECK(ref(weight).type == Type::uint8 && weight.dim() == 1, "pack_stack takes uint8 bytes");
    parts.emplace_back(weight.const_data_ptr<uint8_t>(), weight.nbytes());
  }
  Tensor out = at::empty({static_cast<int64_t>(stack_size(parts))}, at::kByte);
  pack_stack(parts, out.mutable_data_ptr());
  return out;
}

Tensor unpack_op(const Tensor& weight) {
  PackedStack stack;
  const TensorRef bytes = ref(weight);
  TORCH_CHECK(bytes.type == Type::uint8, "unpack takes uint8 bytes");
  const std::string error = stack.view(bytes.data, weight.nbytes());
  TORCH_CHECK(error.empty(), error);
  Tensor out = matrix(stack.rows(), stack.columns());
  auto* values = out.mutable_data_ptr<float>();
  for (const PackedWeight& w : stack.weights()) {
    unpack(w, values);
    values += w.rows * w.columns;
  }
  return out;
}

std::string isa_op() { return isa_name(); }

}  // namespace

Host& current_host() {
  thread_local AtenHost host;
  return host;
}

TORCH_LIBRARY(lowbit, m) {
#define LOWBIT_OPERATOR(NAME, ...) define<op::NAME>(m);
#include "kernels/bindings/operators.inc"
#undef LOWBIT_OPERATOR
  m.def("operators() -> str[]", operators_op);
  m.def("interface_version() -> int", [] { return int64_t{kInterfaceVersion}; });
  m.def("pack_integer(Tensor values, Tensor scales, Tensor? zeros, int bits, int group_size, "
        "str zeros_kind, bool int8_scales) -> Tensor");
  m.def("pack_float(Tensor values, ScalarType dtype) -> Tensor");
  m.def("pack_stack(Tensor[] weights) -> Tensor");
  m.def("unpack(Tensor weight) -> Tensor");
  m.def("isa() -> str", isa_op);
}

TORCH_LIBRARY_IMPL(lowbit, CPU, m) {
  m.impl("pack_integer", pack_integer_op);
  m.impl("pack_float", pack_float_op);
  m.impl("pack_stack", pack_stack_op);
  m.impl("unpack", unpack_op);
}

}  // namespace lowbit
