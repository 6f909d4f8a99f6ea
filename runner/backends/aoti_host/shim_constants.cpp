// The constants of PyTorch's C interface: types, layouts, devices, and the grad mode, which this
// host has no use for. Their values are private to a host; these are PyTorch's.

#include <torch/headeronly/core/DeviceType.h>
#include <torch/headeronly/core/Layout.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/version.h>

#include <stdexcept>

#include "backends/aoti_host/shim.h"

using c10::ScalarType;

// One getter. The name's declaration is PyTorch's, so a changed signature does not compile.
#define CONSTANT(name, value) \
  int32_t aoti_torch_##name() { return static_cast<int32_t>(value); }

extern "C" {

CONSTANT(device_type_cpu, c10::DeviceType::CPU)
CONSTANT(device_type_cuda, c10::DeviceType::CUDA)
CONSTANT(device_type_meta, c10::DeviceType::Meta)
CONSTANT(device_type_xpu, c10::DeviceType::XPU)
CONSTANT(device_type_mps, c10::DeviceType::MPS)
CONSTANT(device_type_privateuse1, c10::DeviceType::PrivateUse1)

CONSTANT(dtype_bfloat16, ScalarType::BFloat16)
CONSTANT(dtype_float16, ScalarType::Half)
CONSTANT(dtype_float32, ScalarType::Float)
CONSTANT(dtype_float64, ScalarType::Double)
CONSTANT(dtype_uint8, ScalarType::Byte)
CONSTANT(dtype_uint16, ScalarType::UInt16)
CONSTANT(dtype_uint32, ScalarType::UInt32)
CONSTANT(dtype_uint64, ScalarType::UInt64)
CONSTANT(dtype_int8, ScalarType::Char)
CONSTANT(dtype_int16, ScalarType::Short)
CONSTANT(dtype_int32, ScalarType::Int)
CONSTANT(dtype_int64, ScalarType::Long)
CONSTANT(dtype_bool, ScalarType::Bool)

CONSTANT(layout_strided, c10::Layout::Strided)

CONSTANT(memory_format_contiguous_format, c10::MemoryFormat::Contiguous)
CONSTANT(memory_format_preserve_format, c10::MemoryFormat::Preserve)

size_t aoti_torch_dtype_element_size(int32_t dtype) {
  return runner::aoti_host::element_size(static_cast<ScalarType>(dtype));
}

uint64_t aoti_torch_abi_version() { return TORCH_ABI_VERSION; }

// There are no gradients.
bool aoti_torch_grad_mode_is_enabled() { return false; }
void aoti_torch_grad_mode_set_enabled(bool) {}

void aoti_torch_check(bool condition, const char* function, const char*, uint32_t,
                      const char* message) {
  if (!condition) throw std::runtime_error(std::string(function) + ": " + message);
}

// A library does not write to stderr.
void aoti_torch_warn(const char*, const char*, uint32_t, const char*) {}

}  // extern "C"
