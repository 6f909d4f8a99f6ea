// The host's part of PyTorch's C interface, called as a compiled model calls it.

#include <cstring>

#include "backends/aoti_host/library.h"
#include "backends/aoti_host/shim.h"
#include "system/error.h"
#include "tests/cpp/check.h"

using namespace runner;
using aoti_host::tensor_of;

namespace {

AtenTensorHandle empty(std::vector<int64_t> sizes, std::vector<int64_t> strides, int32_t dtype) {
  AtenTensorHandle handle = nullptr;
  CHECK_EQ(aoti_torch_empty_strided(std::ssize(sizes), sizes.data(), strides.data(), dtype,
                                    aoti_torch_device_type_cpu(), 0, &handle),
           AOTI_TORCH_SUCCESS);
  return handle;
}

std::vector<int64_t> sizes_of(AtenTensorHandle handle) {
  int64_t dims = 0, *sizes = nullptr;
  aoti_torch_get_dim(handle, &dims);
  aoti_torch_get_sizes(handle, &sizes);
  return {sizes, sizes + dims};
}

float* floats(AtenTensorHandle handle) {
  void* data = nullptr;
  aoti_torch_get_data_ptr(handle, &data);
  return static_cast<float*>(data);
}

}  // namespace

TEST(a_tensor_says_what_it_is) {
  AtenTensorHandle a = empty({2, 3}, {3, 1}, aoti_torch_dtype_float32());
  CHECK_EQ(sizes_of(a), (std::vector<int64_t>{2, 3}));
  int64_t numel = 0, bytes = 0, offset = -1, size = 0, stride = 0;
  int32_t dtype = -1, device = -1;
  bool contiguous = false, defined = false;
  aoti_torch_get_numel(a, &numel);
  aoti_torch_get_storage_size(a, &bytes);
  aoti_torch_get_storage_offset(a, &offset);
  aoti_torch_get_dtype(a, &dtype);
  aoti_torch_get_device_type(a, &device);
  aoti_torch_is_contiguous(a, &contiguous);
  aoti_torch_is_defined(a, &defined);
  aoti_torch_get_size(a, -1, &size);
  aoti_torch_get_stride(a, 0, &stride);
  CHECK_EQ(numel, 6);
  CHECK_EQ(bytes, 24);
  CHECK_EQ(offset, 0);
  CHECK_EQ(dtype, aoti_torch_dtype_float32());
  CHECK_EQ(device, aoti_torch_device_type_cpu());
  CHECK_EQ(size, 3);
  CHECK_EQ(stride, 3);
  CHECK(contiguous && defined);
  CHECK_EQ(reinterpret_cast<uintptr_t>(floats(a)) % 64, uintptr_t{0});
  CHECK_EQ(aoti_torch_get_size(a, 2, &size), AOTI_TORCH_FAILURE);
  CHECK(aoti_host::last_error().find("dimension 2") != std::string::npos);
  aoti_torch_delete_tensor_object(a);
}

TEST(handles_share_memory_until_the_last_is_deleted) {
  AtenTensorHandle a = empty({4}, {1}, aoti_torch_dtype_float32()), b = nullptr, c = nullptr;
  aoti_torch_new_tensor_handle(a, &b);
  const int64_t sizes[] = {2}, strides[] = {1};
  CHECK_EQ(aoti_torch__reinterpret_tensor(b, 1, sizes, strides, 2, &c), AOTI_TORCH_SUCCESS);
  aoti_torch_delete_tensor_object(a);
  floats(b)[2] = 7;
  aoti_torch_delete_tensor_object(b);
  CHECK_EQ(floats(c)[0], 7.0F);
  AtenTensorHandle again = nullptr;
  CHECK_EQ(aoti_torch__reinterpret_tensor(c, 1, sizes, strides, 1, &again), AOTI_TORCH_FAILURE);
  CHECK(aoti_host::last_error().find("beyond its memory") != std::string::npos);
  aoti_torch_delete_tensor_object(c);
}

TEST(a_blob_is_used_in_place) {
  float values[] = {1, 2, 3, 4, 5, 6};
  const int64_t sizes[] = {3, 2}, strides[] = {1, 3};  // transposed
  AtenTensorHandle blob = nullptr, copied = nullptr;
  CHECK_EQ(aoti_torch_create_tensor_from_blob_v2(values, 2, sizes, strides, 0,
                                                 aoti_torch_dtype_float32(),
                                                 aoti_torch_device_type_cpu(), 0, &blob,
                                                 aoti_torch_layout_strided(), nullptr, 0),
           AOTI_TORCH_SUCCESS);
  CHECK(floats(blob) == values);
  AtenTensorHandle dense = empty({3, 2}, {2, 1}, aoti_torch_dtype_float32());
  CHECK_EQ(aoti_torch_copy_(dense, blob, 0), AOTI_TORCH_SUCCESS);
  const float expected[] = {1, 4, 2, 5, 3, 6};
  CHECK(std::memcmp(floats(dense), expected, sizeof expected) == 0);
  CHECK_EQ(aoti_torch_clone_preserve_strides(blob, &copied), AOTI_TORCH_SUCCESS);
  CHECK(std::memcmp(floats(copied), values, sizeof values) == 0);
  CHECK_EQ(aoti_torch_zero_(dense), AOTI_TORCH_SUCCESS);
  CHECK_EQ(floats(dense)[5], 0.0F);
  for (AtenTensorHandle handle : {blob, copied, dense}) aoti_torch_delete_tensor_object(handle);
}

TEST(one_element_and_back) {
  AtenTensorHandle a = nullptr;
  CHECK_EQ(aoti_torch_scalar_to_tensor_int64(-5, &a), AOTI_TORCH_SUCCESS);
  int64_t value = 0;
  CHECK_EQ(aoti_torch_item_int64(a, &value), AOTI_TORCH_SUCCESS);
  CHECK_EQ(value, -5);
  float other = 0;
  CHECK_EQ(aoti_torch_item_float32(a, &other), AOTI_TORCH_FAILURE);
  aoti_torch_delete_tensor_object(a);
}

TEST(what_this_host_does_not_have_is_an_error) {
  AtenTensorHandle a = nullptr;
  const int64_t sizes[] = {2}, strides[] = {1}, negative[] = {-1};
  const auto make = [&](const int64_t* s, int64_t dims, int32_t dtype, int32_t device) {
    return aoti_torch_empty_strided(dims, s, strides, dtype, device, 0, &a);
  };
  const int32_t f32 = aoti_torch_dtype_float32(), cpu = aoti_torch_device_type_cpu();
  CHECK_EQ(make(sizes, 1, f32, aoti_torch_device_type_cuda()), AOTI_TORCH_FAILURE);
  CHECK_EQ(make(negative, 1, f32, cpu), AOTI_TORCH_FAILURE);
  CHECK_EQ(make(sizes, 9, f32, cpu), AOTI_TORCH_FAILURE);
  CHECK_EQ(make(sizes, 1, 1000, cpu), AOTI_TORCH_FAILURE);
  const int64_t huge[] = {int64_t{1} << 62};
  CHECK_EQ(make(huge, 1, f32, cpu), AOTI_TORCH_FAILURE);
}

TEST(functions_are_looked_for_by_name) {
  const std::vector<std::string> names = {"aoti_torch_clone", "aoti_torch_cpu_addmm_out"};
  CHECK_EQ(aoti_host::missing_functions(names),
           (std::vector<std::string>{"aoti_torch_cpu_addmm_out"}));
}

TEST(code_that_is_no_library) {
  const std::string text = "not an ELF file";
  const std::span code(reinterpret_cast<const std::byte*>(text.data()), text.size());
  CHECK_THROWS(Error, aoti_host::Library::from_bytes("m.pt2", code), "m.pt2 cannot be loaded",
               "TMPDIR");
}

CHECK_MAIN()
