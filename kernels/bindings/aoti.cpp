// The operators of the table (operators.txt) as plain C functions that AOTInductor's code calls
// directly (`aot_inductor.custom_ops_to_c_shims`). Only PyTorch's stable C interface is used.

#include "kernels/bindings/aoti.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <new>
#include <utility>

#include "kernels/bindings/operators.h"

namespace lowbit {
namespace {

thread_local std::string error_text;

void check(AOTITorchError error, const char* what) {
  if (error != 0) throw CallError(std::string("cannot get a tensor's ") + what);
}

Type type_of(int32_t dtype) {
  // Asked once: each is a call of the host's.
  static const std::pair<int32_t, Type> kTypes[] = {{aoti_torch_dtype_float32(), Type::float32},
                                                    {aoti_torch_dtype_uint8(), Type::uint8},
                                                    {aoti_torch_dtype_float16(), Type::float16},
                                                    {aoti_torch_dtype_int64(), Type::int64},
                                                    {aoti_torch_dtype_int8(), Type::int8}};
  for (const auto& [number, type] : kTypes) {
    if (number == dtype) return type;
  }
  return Type::other;
}

TensorRef ref(AtenTensorHandle handle) {
  TensorRef t;
  int64_t dims = 0, *sizes = nullptr, *strides = nullptr;
  int32_t dtype = 0;
  check(aoti_torch_get_data_ptr(handle, &t.data), "data");
  check(aoti_torch_get_dtype(handle, &dtype), "type");
  check(aoti_torch_get_dim(handle, &dims), "dimensions");
  check(aoti_torch_get_sizes(handle, &sizes), "sizes");
  check(aoti_torch_get_strides(handle, &strides), "strides");
  int64_t dense = 1;
  for (int64_t i = dims; i-- > 0;) {
    if (sizes[i] > 1 && strides[i] != dense) throw CallError("a tensor is not dense");
    dense *= sizes[i];
  }
  t.type = type_of(dtype);
  t.sizes = {sizes, static_cast<size_t>(dims)};
  return t;
}

// An operator's argument from what the generated code passes.
TensorRef of(AtenTensorHandle tensor) { return ref(tensor); }
struct OptionalRef {
  bool there;
  TensorRef value;
  operator const TensorRef*() const { return there ? &value : nullptr; }
};
OptionalRef of(AtenTensorHandle* tensor) {
  return {tensor != nullptr, tensor != nullptr ? ref(*tensor) : TensorRef{}};
}
int64_t of(int64_t number) { return number; }
double of(double number) { return number; }
bool of(int32_t truth) { return truth != 0; }

// A float32 tensor; the caller deletes it.
AtenTensorHandle allocate(int64_t rows, int64_t columns) {
  const int64_t sizes[] = {rows, columns}, strides[] = {columns, 1};
  AtenTensorHandle tensor = nullptr;
  if (aoti_torch_empty_strided(2, sizes, strides, aoti_torch_dtype_float32(),
                               aoti_torch_device_type_cpu(), 0, &tensor) != 0) {
    throw std::bad_alloc();
  }
  return tensor;
}

// Keeps what the exception being handled says; returns the status of a failure.
AOTITorchError failed() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    error_text = kOutOfMemory;
  } catch (const std::exception& error) {
    error_text = error.what();
  }
  return 1;
}

template <class Op, class... Arguments>
AOTITorchError run(AtenTensorHandle* result, Arguments... arguments) {
  AtenTensorHandle out = nullptr;
  try {
    run_operator<Op>(
        [&](int64_t rows, int64_t columns) { return ref(out = allocate(rows, columns)); },
        of(arguments)...);
  } catch (...) {
    if (out != nullptr) aoti_torch_delete_tensor_object(out);
    return failed();
  }
  *result = out;
  return 0;
}

}  // namespace

const std::string& last_error() { return error_text; }
void clear_last_error() { error_text.clear(); }

}  // namespace lowbit

extern "C" {

using Tensor = AtenTensorHandle;
using OptionalTensor = AtenTensorHandle*;
using Int = int64_t;
using Float = double;
using Bool = int32_t;

#define LOWBIT_OPERATOR(NAME, ARGUMENTS, SIZES_TEXT, PARAMETERS, NAMES, SIZES)                     \
  AOTI_TORCH_EXPORT AOTITorchError aoti_torch_cpu_##NAME(LOWBIT_LIST PARAMETERS, Tensor* result) { \
    return lowbit::run<lowbit::op::NAME>(result, LOWBIT_LIST NAMES);                               \
  }
#include "kernels/bindings/operators.inc"
#undef LOWBIT_OPERATOR

}  // extern "C"
