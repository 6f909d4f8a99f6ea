// torchao 0.18's operators on packed weights, under its names and schemas and on our kernels: for
// machines where no library of torchao has them. A second registration of a name ends the program:
// exporter/contrib/torchao/aliases.py looks before it loads this library.
//
// Packed bytes, int8 [bytes] as torchao's:
//   linear     a weight in the layout of kernels/layout.h, whose header says how long it is, then
//              float32 [N], the bias, where there is one
//   embedding  the same layout, one group of scale 1 a row and no zero points: the integers
//              themselves. Scales and zero points come with each call.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/bindings/calls.h"

namespace lowbit {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

int64_t rounded_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

TensorRef ref(const Tensor& t, Type type) {
  return {t.data_ptr(), type, {t.sizes().data(), t.sizes().size()}};
}

// Checks that `t` is dense, on the CPU and of this type and so many dimensions.
void expect(const Tensor& t, const char* name, at::ScalarType type, int64_t dimensions) {
  TORCH_CHECK(t.device().is_cpu() && t.is_contiguous() && t.scalar_type() == type &&
                  t.dim() == dimensions,
              name, " must be dense ", type, " of ", dimensions, " dimensions on the CPU, not ",
              t.scalar_type(), " ", t.sizes(), " on ", t.device());
}

// --- Packing -------------------------------------------------------------------------------------

// The layout of torchao's groups: a whole row's is any length, others have multiples of 16.
Format format_of(int64_t bits, int64_t columns, int64_t group_size, bool zeros) {
  TORCH_CHECK(group_size == columns || (group_size > 0 && group_size % 16 == 0),
              "group_size must be a multiple of 16 or the row's ", columns, ", not ", group_size);
  TORCH_CHECK(group_size > 0 && columns % group_size == 0, "group_size ", group_size,
              " does not divide the row's ", columns);
  return {Kind::integer, static_cast<uint32_t>(bits),
          static_cast<uint32_t>(rounded_up(group_size, 16)), zeros ? Zeros::integer : Zeros::none};
}

// Signed integers of so many bits as unsigned: what the layout holds.
Tensor to_unsigned(const Tensor& values, const char* name, int64_t bits) {
  const int64_t middle = int64_t{1} << (bits - 1);
  const auto* from = values.const_data_ptr<int8_t>();
  Tensor out = at::empty(values.sizes(), at::kByte);
  auto* to = out.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    const int64_t value = from[i] + middle;
    TORCH_CHECK(value >= 0 && value < 2 * middle, name, " holds ", static_cast<int>(from[i]),
                ", which does not fit in ", bits, " bits");
    to[i] = static_cast<uint8_t>(value);
  }
  return out;
}

int64_t bias_bytes(const OptionalTensor& bias) {
  return bias ? bias->numel() * static_cast<int64_t>(sizeof(float)) : 0;
}

// torchao's `target` chooses among its layouts.
void check_target(const std::optional<std::string>& target) {
  TORCH_CHECK(!target || *target == "universal", "target ", target.value_or(""),
              " is not served here: pack as opaque_torchao_auto or opaque_torchao_lowbit");
}

int64_t packed_bytes(int64_t bits, const Tensor& values, int64_t group_size, bool zeros) {
  TORCH_CHECK(values.dim() == 2, "weight_qvals must have 2 dimensions, not ", values.dim());
  const Format format = format_of(bits, values.size(1), group_size, zeros);
  return static_cast<int64_t>(packed_size(format, values.size(0), values.size(1)));
}

template <int64_t bits>
Tensor pack_weight_meta(const Tensor& values, const Tensor&, const OptionalTensor& zeros,
                        int64_t group_size, const OptionalTensor& bias,
                        const std::optional<std::string>& target) {
  check_target(target);
  const int64_t bytes = packed_bytes(bits, values, group_size, zeros.has_value());
  return at::empty({bytes + bias_bytes(bias)}, values.options().dtype(at::kChar));
}

template <int64_t bits>
Tensor pack_weight(const Tensor& values_given, const Tensor& scales,
                   const OptionalTensor& zeros, int64_t group_size, const OptionalTensor& bias,
                   const std::optional<std::string>& target) {
  check_target(target);
  const Tensor values = values_given.contiguous();
  expect(values, "weight_qvals", at::kChar, 2);
  const int64_t rows = values.size(0), columns = values.size(1);
  const int64_t bytes = packed_bytes(bits, values, group_size, zeros.has_value());
  const int64_t n_groups = rows * (columns / group_size);
  expect(scales, "weight_scales", at::kFloat, 1);
  TORCH_CHECK(scales.numel() == n_groups, "weight_scales must have ", n_groups, " values, not ",
              scales.numel());
  Tensor unsigned_zeros;
  if (zeros) {
    expect(*zeros, "weight_zeros", at::kChar, 1);
    TORCH_CHECK(zeros->numel() == n_groups, "weight_zeros must have ", n_groups, " values, not ",
                zeros->numel());
    unsigned_zeros = to_unsigned(*zeros, "weight_zeros", bits).to(at::kFloat);
  }
  if (bias) {
    expect(*bias, "bias", at::kFloat, 1);
    TORCH_CHECK(bias->numel() == rows, "bias must have ", rows, " values, not ", bias->numel());
  }
  Tensor out = at::empty({bytes + bias_bytes(bias)}, at::kChar);
  pack_integer(format_of(bits, columns, group_size, zeros.has_value()), rows, columns,
               to_unsigned(values, "weight_qvals", bits).const_data_ptr<uint8_t>(),
               scales.const_data_ptr<float>(),
               zeros ? unsigned_zeros.const_data_ptr<float>() : nullptr, out.data_ptr());
  if (bias) {
    std::memcpy(out.mutable_data_ptr<int8_t>() + bytes, bias->const_data_ptr(),
                static_cast<size_t>(bias_bytes(bias)));
  }
  return out;
}

template <int64_t bits>
Tensor pack_embedding_meta(const Tensor& values) {
  TORCH_CHECK(values.dim() == 2, "weight_qvals must have 2 dimensions, not ", values.dim());
  const int64_t bytes = packed_bytes(bits, values, values.size(1), false);
  return at::empty({bytes}, values.options().dtype(at::kChar));
}

template <int64_t bits>
Tensor pack_embedding(const Tensor& values) {
  TORCH_CHECK(values.dim() == 2, "weight_qvals must have 2 dimensions, not ", values.dim());
  return pack_weight<bits>(values, at::ones({values.size(0)}, at::kFloat), {}, values.size(1), {},
                           {});
}

// --- Packed bytes --------------------------------------------------------------------------------

struct Packed {
  PackedWeight weight;
  int64_t bytes;  // of the weight
  const uint8_t* data;
  const float* bias;  // null where there is none
};

Packed opened(const Tensor& packed) {
  expect(packed, "packed_weights", at::kChar, 1);
  Packed p{};
  p.data = static_cast<const uint8_t*>(packed.const_data_ptr());
  const auto size = static_cast<size_t>(packed.numel());
  uint64_t bytes = size;
  if (size >= kHeaderBytes) {
    std::memcpy(&bytes, p.data + offsetof(Header, bytes), sizeof(bytes));
    bytes = std::min<uint64_t>(bytes, size);
  }
  const std::string error = view(p.data, bytes, &p.weight);
  TORCH_CHECK(error.empty(), "packed_weights: ", error,
              "; weights must be packed by the library that uses them");
  p.bytes = static_cast<int64_t>(bytes);
  const size_t rest = size - bytes;
  TORCH_CHECK(rest == 0 || rest == static_cast<size_t>(p.weight.rows) * sizeof(float),
              "packed_weights has ", rest, " bytes after the weight, where a bias of ",
              p.weight.rows, " float32 or nothing is expected");
  if (rest != 0) p.bias = reinterpret_cast<const float*>(p.data + bytes);
  return p;
}

Packed opened(const Tensor& packed, int64_t bits, int64_t group_size, int64_t rows,
              int64_t columns) {
  Packed p = opened(packed);
  const PackedWeight& w = p.weight;
  const bool fits = w.format.kind == Kind::integer && w.format.bits == bits && w.rows == rows &&
                    w.columns == columns && group_size > 0 && group_size <= columns &&
                    (group_size == columns || group_size % 16 == 0) &&
                    w.format.group_size == rounded_up(group_size, 16);
  TORCH_CHECK(fits,
              "packed_weights is [", w.rows, ", ", w.columns, "] of ", w.format.bits,
              " bits in groups of ", w.format.group_size, ", not [", rows, ", ", columns, "] of ",
              bits, " bits in groups of ", group_size);
  return p;
}

// int64 [T], where torchao takes int32 as well.
Tensor checked_indices(const Tensor& indices) {
  TORCH_CHECK(indices.dim() == 1 && indices.device().is_cpu() &&
                  (indices.scalar_type() == at::kLong || indices.scalar_type() == at::kInt),
              "indices must be int32 or int64 of 1 dimension on the CPU, not ",
              indices.scalar_type(), " ", indices.sizes(), " on ", indices.device());
  return indices.to(at::kLong).contiguous();
}

void resize(Tensor& out, int64_t rows, int64_t columns) {
  out.resize_({rows, columns});
  expect(out, "out", at::kFloat, 2);
}

Tensor no_rows() { return at::empty({0, 0}, at::kFloat); }

// --- Running -------------------------------------------------------------------------------------

template <int64_t bits>
Tensor& linear_out(const Tensor& activations, const Tensor& packed, int64_t group_size, int64_t n,
                   int64_t k, Tensor& out) {
  const Packed p = opened(packed, bits, group_size, n, k);
  const Tensor x = activations.contiguous();
  expect(x, "activations", at::kFloat, 2);
  TORCH_CHECK(x.size(1) == k, "activations have ", x.size(1), " columns, not ", k);
  resize(out, x.size(0), n);
  if (x.size(0) == 0) return out;
  const std::array<int64_t, 1> bytes{p.bytes}, outputs{n};
  const TensorRef weight{const_cast<uint8_t*>(p.data), Type::uint8, bytes};
  const TensorRef bias{const_cast<float*>(p.bias), Type::float32, outputs};
  call_linear_a8wx(current_host(), ref(x, Type::float32), weight,
                   p.bias != nullptr ? &bias : nullptr, n, true, ref(out, Type::float32));
  return out;
}

template <int64_t bits>
Tensor linear(const Tensor& activations, const Tensor& packed, int64_t group_size, int64_t n,
              int64_t k) {
  Tensor out = no_rows();
  return linear_out<bits>(activations, packed, group_size, n, k, out);
}

template <int64_t bits>
Tensor& shared_embedding_out(const Tensor& packed, int64_t group_size, int64_t n, int64_t k,
                             const Tensor& indices_given, Tensor& out) {
  const Packed p = opened(packed, bits, group_size, n, k);
  const Tensor indices = checked_indices(indices_given);
  resize(out, indices.numel(), k);
  TORCH_CHECK(embedding(current_host(), indices.const_data_ptr<int64_t>(), indices.numel(),
                        p.weight, out.mutable_data_ptr<float>()),
              "an index is not in 0..", n - 1);
  return out;
}

template <int64_t bits>
Tensor shared_embedding(const Tensor& packed, int64_t group_size, int64_t n, int64_t k,
                        const Tensor& indices) {
  Tensor out = no_rows();
  return shared_embedding_out<bits>(packed, group_size, n, k, indices, out);
}

template <int64_t bits>
Tensor& embedding_out(const Tensor& packed, int64_t rows, int64_t columns, const Tensor& scales,
                      const Tensor& zeros, const Tensor& indices_given, Tensor& out) {
  const Packed p = opened(packed, bits, columns, rows, columns);
  expect(scales, "weight_scales", at::kFloat, 2);
  expect(zeros, "weight_zeros", at::kChar, 2);
  const int64_t groups = scales.size(1);
  TORCH_CHECK(scales.size(0) == rows && scales.sizes() == zeros.sizes() && groups > 0 &&
                  columns % groups == 0,
              "weight_scales and weight_zeros must both be [", rows, ", a divisor of ", columns,
              "], not ", scales.sizes(), " and ", zeros.sizes());
  const Tensor indices = checked_indices(indices_given);
  resize(out, indices.numel(), columns);
  const auto* tokens = indices.const_data_ptr<int64_t>();
  float* values = out.mutable_data_ptr<float>();
  TORCH_CHECK(embedding(current_host(), tokens, indices.numel(), p.weight, values),
              "an index is not in 0..", rows - 1);
  const auto* scale = scales.const_data_ptr<float>();
  const auto* zero = zeros.const_data_ptr<int8_t>();
  const int64_t group_size = columns / groups;
  at::parallel_for(0, indices.numel(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = tokens[t] * groups + g;
        float* group = values + t * columns + g * group_size;
        for (int64_t i = 0; i < group_size; ++i) group[i] = (group[i] - zero[at]) * scale[at];
      }
    }
  });
  return out;
}

template <int64_t bits>
Tensor embedding_op(const Tensor& packed, int64_t rows, int64_t columns, const Tensor& scales,
                    const Tensor& zeros, const Tensor& indices) {
  Tensor out = no_rows();
  return embedding_out<bits>(packed, rows, columns, scales, zeros, indices, out);
}

// A linear layer's packed bytes as the plain weight of kernels/layout.h, uint8 [bytes], and the
// bias where there is one.
std::vector<Tensor> split_torchao(const Tensor& packed) {
  const Packed p = opened(packed);
  Tensor weight = at::empty({p.bytes}, at::kByte);
  std::memcpy(weight.mutable_data_ptr(), p.data, static_cast<size_t>(p.bytes));
  if (p.bias == nullptr) return {weight};
  Tensor bias = at::empty({p.weight.rows}, at::kFloat);
  std::memcpy(bias.mutable_data_ptr(), p.bias, bias.nbytes());
  return {weight, bias};
}

// --- Registration --------------------------------------------------------------------------------

// Defines `name` and, where torchao has one, its `.out`.
void define(torch::Library& m, const std::string& name, const char* arguments, bool out) {
  m.def(torch::schema((name + "(" + arguments + ") -> Tensor").c_str()));
  if (!out) return;
  m.def(torch::schema(
      (name + ".out(" + arguments + ", *, Tensor(a!) out) -> Tensor(a!)").c_str()));
}

struct Names {
  std::string pack, linear, pack_embedding, embedding, shared_embedding;

  explicit Names(int64_t bits) {
    const std::string n = std::to_string(bits);
    pack = "_pack_8bit_act_" + n + "bit_weight";
    linear = "_linear_8bit_act_" + n + "bit_weight";
    pack_embedding = "_pack_embedding_" + n + "bit";
    embedding = "_embedding_" + n + "bit";
    shared_embedding = "_shared_embedding_" + n + "bit";
  }
};

void define(torch::Library& m, int64_t bits) {
  const Names names(bits);
  define(m, names.pack,
         "Tensor weight_qvals, Tensor weight_scales, Tensor? weight_zeros, int group_size, "
         "Tensor? bias, str? target",
         false);
  define(m, names.linear,
         "Tensor activations, Tensor packed_weights, int group_size, int n, int k", true);
  define(m, names.pack_embedding, "Tensor weight_qvals", false);
  define(m, names.embedding,
         "Tensor packed_weight_qvals, int num_embeddings, int embedding_dim, "
         "Tensor weight_scales, Tensor weight_zeros, Tensor indices",
         true);
  define(m, names.shared_embedding,
         "Tensor packed_weights, int group_size, int n, int k, Tensor indices", true);
}

template <int64_t bits>
void implement(torch::Library& m) {
  const Names names(bits);
  m.impl(names.pack.c_str(), pack_weight<bits>);
  m.impl(names.linear.c_str(), linear<bits>);
  m.impl((names.linear + ".out").c_str(), linear_out<bits>);
  m.impl(names.pack_embedding.c_str(), pack_embedding<bits>);
  m.impl(names.embedding.c_str(), embedding_op<bits>);
  m.impl((names.embedding + ".out").c_str(), embedding_out<bits>);
  m.impl(names.shared_embedding.c_str(), shared_embedding<bits>);
  m.impl((names.shared_embedding + ".out").c_str(), shared_embedding_out<bits>);
}

// torchao has those of the other operators in Python.
template <int64_t bits>
void implement_meta(torch::Library& m) {
  const Names names(bits);
  m.impl(names.pack.c_str(), pack_weight_meta<bits>);
  m.impl(names.pack_embedding.c_str(), pack_embedding_meta<bits>);
}

using Widths = std::integer_sequence<int64_t, 1, 2, 3, 4, 5, 6, 7, 8>;

template <int64_t... bits>
void implement_all(torch::Library& m, std::integer_sequence<int64_t, bits...>) {
  (implement<bits>(m), ...);
}

template <int64_t... bits>
void implement_all_meta(torch::Library& m, std::integer_sequence<int64_t, bits...>) {
  (implement_meta<bits>(m), ...);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(torchao, m) {
  for (int64_t bits = 1; bits <= 8; ++bits) define(m, bits);
}
TORCH_LIBRARY_IMPL(torchao, CPU, m) { implement_all(m, Widths{}); }
TORCH_LIBRARY_IMPL(torchao, Meta, m) { implement_all_meta(m, Widths{}); }

TORCH_LIBRARY_FRAGMENT(lowbit, m) {
  m.def("split_torchao(Tensor packed_weights) -> Tensor[]", split_torchao);
}

}  // namespace lowbit
