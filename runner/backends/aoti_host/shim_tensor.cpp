// The tensors of PyTorch's C interface, on the CPU. Each function's contract is its comment in
// torch/csrc/inductor/aoti_torch/c/shim.h (PyTorch 2.13).

#include <cstring>
#include <stdexcept>

#include "backends/aoti_host/shim.h"

namespace runner::aoti_host {
namespace {

thread_local std::string error_text;
thread_local KeptHandles* keeper = nullptr;

std::span<const int64_t> list(const int64_t* values, int64_t count) {
  if (count < 0) throw std::invalid_argument("a tensor has a negative number of dimensions");
  return {values, static_cast<size_t>(count)};
}

void require_cpu(int32_t device_type) {
  if (device_type != aoti_torch_device_type_cpu()) {
    throw std::invalid_argument("a tensor that is not on the CPU");
  }
}

int64_t dimension(const Tensor& tensor, int64_t d) {
  const int64_t index = d < 0 ? d + tensor.dims : d;
  if (index < 0 || index >= tensor.dims) {
    throw std::invalid_argument("a tensor has no dimension " + std::to_string(d));
  }
  return index;
}

template <class T>
AOTITorchError item(AtenTensorHandle handle, c10::ScalarType dtype, T* value) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(handle);
    if (tensor.dtype != dtype || tensor.numel() != 1) {
      throw std::invalid_argument("a value of a tensor that is not one element of its type");
    }
    std::memcpy(value, tensor.data, sizeof(T));
  });
}

template <class T>
AOTITorchError scalar(T value, c10::ScalarType dtype, AtenTensorHandle* result) {
  return guarded([&] {
    Tensor tensor = empty(dtype, {}, {});
    std::memcpy(tensor.data, &value, sizeof(T));
    *result = new_handle(std::move(tensor));
  });
}

// The bytes that a blob of this form needs.
size_t blob_bytes(std::span<const int64_t> sizes, std::span<const int64_t> strides, int64_t offset,
                  c10::ScalarType dtype) {
  int64_t last = offset;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return 0;
    last += (sizes[i] - 1) * strides[i];
  }
  return static_cast<size_t>(last + 1) * element_size(dtype);
}

}  // namespace

AtenTensorHandle new_handle(Tensor tensor) {
  auto made = std::make_unique<Tensor>(std::move(tensor));
  made->kept = keeper != nullptr;
  if (keeper != nullptr) keeper->add(made.get());
  return reinterpret_cast<AtenTensorHandle>(made.release());
}

KeptHandles::Recording::Recording(KeptHandles& owner) { keeper = &owner; }
KeptHandles::Recording::~Recording() { keeper = nullptr; }

const std::string& last_error() { return error_text; }
void set_last_error(std::string text) { error_text = std::move(text); }

}  // namespace runner::aoti_host

using runner::aoti_host::copy;
using runner::aoti_host::dimension;
using runner::aoti_host::empty;
using runner::aoti_host::guarded;
using runner::aoti_host::item;
using runner::aoti_host::list;
using runner::aoti_host::new_handle;
using runner::aoti_host::require_cpu;
using runner::aoti_host::scalar;
using runner::aoti_host::Storage;
using runner::aoti_host::Tensor;
using runner::aoti_host::tensor_of;
using runner::aoti_host::view;
using c10::ScalarType;

// A getter of one property, and the two functions of one type of element.
#define GETTER(name, type, value)                                           \
  AOTITorchError aoti_torch_##name(AtenTensorHandle handle, type* result) { \
    [[maybe_unused]] const Tensor& tensor = tensor_of(handle);              \
    *result = value;                                                        \
    return AOTI_TORCH_SUCCESS;                                              \
  }
#define ELEMENT(name, type, dtype)                                             \
  AOTITorchError aoti_torch_item_##name(AtenTensorHandle handle, type* value) { \
    return item(handle, dtype, value);                                         \
  }                                                                            \
  AOTITorchError aoti_torch_scalar_to_tensor_##name(type value, AtenTensorHandle* result) { \
    return scalar(value, dtype, result);                                       \
  }

extern "C" {

GETTER(get_data_ptr, void*, tensor.data)
GETTER(get_storage_size, int64_t, static_cast<int64_t>(tensor.storage.bytes()))
GETTER(get_dim, int64_t, tensor.dims)
GETTER(get_numel, int64_t, tensor.numel())
GETTER(get_sizes, int64_t*, const_cast<int64_t*>(tensor.sizes))
GETTER(get_strides, int64_t*, const_cast<int64_t*>(tensor.strides))
GETTER(get_dtype, int32_t, static_cast<int32_t>(tensor.dtype))
GETTER(get_device_type, int32_t, aoti_torch_device_type_cpu())
GETTER(get_device_index, int32_t, 0)
GETTER(get_layout, int32_t, aoti_torch_layout_strided())
GETTER(get_storage_offset, int64_t, tensor.offset)
GETTER(is_contiguous, bool, tensor.is_contiguous())
GETTER(is_defined, bool, tensor.dtype != ScalarType::Undefined)

ELEMENT(float32, float, ScalarType::Float)
ELEMENT(float64, double, ScalarType::Double)
ELEMENT(uint8, uint8_t, ScalarType::Byte)
ELEMENT(uint16, uint16_t, ScalarType::UInt16)
ELEMENT(uint32, uint32_t, ScalarType::UInt32)
ELEMENT(uint64, uint64_t, ScalarType::UInt64)
ELEMENT(int8, int8_t, ScalarType::Char)
ELEMENT(int16, int16_t, ScalarType::Short)
ELEMENT(int32, int32_t, ScalarType::Int)
ELEMENT(int64, int64_t, ScalarType::Long)
ELEMENT(bool, bool, ScalarType::Bool)

AOTITorchError aoti_torch_get_storage_numel(AtenTensorHandle handle, int64_t* result) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(handle);
    *result = static_cast<int64_t>(tensor.storage.bytes() /
                                   runner::aoti_host::element_size(tensor.dtype));
  });
}

AOTITorchError aoti_torch_get_size(AtenTensorHandle handle, int64_t d, int64_t* result) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(handle);
    *result = tensor.sizes[dimension(tensor, d)];
  });
}

AOTITorchError aoti_torch_get_stride(AtenTensorHandle handle, int64_t d, int64_t* result) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(handle);
    *result = tensor.strides[dimension(tensor, d)];
  });
}

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle handle) {
  auto* tensor = reinterpret_cast<Tensor*>(handle);
  if (tensor != nullptr && !tensor->kept) delete tensor;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle handle, AtenTensorHandle* result) {
  return guarded([&] { *result = new_handle(tensor_of(handle)); });
}

AOTITorchError aoti_torch_new_uninitialized_tensor(AtenTensorHandle* result) {
  return guarded([&] { *result = new_handle({}); });
}

AOTITorchError aoti_torch_assign_tensors(AtenTensorHandle from, AtenTensorHandle to) {
  return guarded([&] {
    const bool kept = tensor_of(to).kept;
    tensor_of(to) = tensor_of(from);
    tensor_of(to).kept = kept;
  });
}

AOTITorchError aoti_torch_assign_tensors_out(AtenTensorHandle from, AtenTensorHandle* result) {
  return guarded([&] { *result = new_handle(tensor_of(from)); });
}

AOTITorchError aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides,
                                        int32_t dtype, int32_t device_type, int32_t,
                                        AtenTensorHandle* result) {
  return guarded([&] {
    require_cpu(device_type);
    *result =
        new_handle(empty(static_cast<ScalarType>(dtype), list(sizes, dims), list(strides, dims)));
  });
}

AOTITorchError aoti_torch_create_tensor_from_blob(void* data, int64_t dims, const int64_t* sizes,
                                                  const int64_t* strides, int64_t offset,
                                                  int32_t dtype, int32_t device_type, int32_t,
                                                  AtenTensorHandle* result) {
  return guarded([&] {
    require_cpu(device_type);
    const auto type = static_cast<ScalarType>(dtype);
    const auto s = list(sizes, dims), t = list(strides, dims);
    const Storage blob = Storage::borrow(data, runner::aoti_host::blob_bytes(s, t, offset, type));
    *result = new_handle(view(blob, type, s, t, offset));
  });
}

AOTITorchError aoti_torch_create_tensor_from_blob_v2(
    void* data, int64_t dims, const int64_t* sizes, const int64_t* strides, int64_t offset,
    int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle* result,
    int32_t layout, const uint8_t*, int64_t opaque_metadata_size) {
  if (layout != aoti_torch_layout_strided() || opaque_metadata_size != 0) {
    runner::aoti_host::set_last_error("a tensor of a layout that this host does not know");
    return AOTI_TORCH_FAILURE;
  }
  return aoti_torch_create_tensor_from_blob(data, dims, sizes, strides, offset, dtype, device_type,
                                            device_index, result);
}

AOTITorchError aoti_torch__reinterpret_tensor(AtenTensorHandle self, int64_t dims,
                                              const int64_t* sizes, const int64_t* strides,
                                              int64_t offset_increment, AtenTensorHandle* result) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(self);
    *result = new_handle(view(tensor.storage, tensor.dtype, list(sizes, dims), list(strides, dims),
                              tensor.offset + offset_increment));
  });
}

AOTITorchError aoti_torch_as_strided(AtenTensorHandle self, const int64_t* sizes,
                                     const int64_t* strides, AtenTensorHandle* result) {
  return aoti_torch__reinterpret_tensor(self, tensor_of(self).dims, sizes, strides, 0, result);
}

AOTITorchError aoti_torch__alloc_from_pool(AtenTensorHandle self, int64_t offset_bytes,
                                           int32_t dtype, int64_t dims, const int64_t* sizes,
                                           const int64_t* strides, AtenTensorHandle* result) {
  return guarded([&] {
    const auto type = static_cast<ScalarType>(dtype);
    const auto bytes = static_cast<int64_t>(runner::aoti_host::element_size(type));
    if (offset_bytes % bytes != 0) throw std::invalid_argument("an offset between two elements");
    *result = new_handle(view(tensor_of(self).storage, type, list(sizes, dims),
                              list(strides, dims), offset_bytes / bytes));
  });
}

AOTITorchError aoti_torch_clone(AtenTensorHandle self, AtenTensorHandle* result) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(self);
    if (!tensor.is_contiguous()) throw std::invalid_argument("a clone of a tensor with gaps");
    Tensor copied =
        empty(tensor.dtype, list(tensor.sizes, tensor.dims), list(tensor.strides, tensor.dims));
    copy(tensor, copied);
    *result = new_handle(std::move(copied));
  });
}

AOTITorchError aoti_torch_clone_preserve_strides(AtenTensorHandle self, AtenTensorHandle* result) {
  return guarded([&] {
    const Tensor& tensor = tensor_of(self);
    Tensor copied =
        empty(tensor.dtype, list(tensor.sizes, tensor.dims), list(tensor.strides, tensor.dims));
    copy(tensor, copied);
    *result = new_handle(std::move(copied));
  });
}

AOTITorchError aoti_torch_copy_(AtenTensorHandle self, AtenTensorHandle from, int32_t) {
  return guarded([&] { copy(tensor_of(from), tensor_of(self)); });
}

AOTITorchError aoti_torch_tensor_copy_(AtenTensorHandle from, AtenTensorHandle to) {
  return guarded([&] { copy(tensor_of(from), tensor_of(to)); });
}

AOTITorchError aoti_torch_zero_(AtenTensorHandle self) {
  return guarded([&] {
    Tensor& tensor = tensor_of(self);
    if (!tensor.is_contiguous()) throw std::invalid_argument("zeros in a tensor with gaps");
    const auto bytes = static_cast<int64_t>(runner::aoti_host::element_size(tensor.dtype));
    std::memset(tensor.data, 0, static_cast<size_t>(tensor.numel() * bytes));
  });
}

}  // extern "C"
