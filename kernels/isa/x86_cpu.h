#pragma once

#include <cpuid.h>

// Whether this CPU has what the vectors of kernels/simd/ are made of. Not shared between files:
// each compiles these with its own instruction set.
namespace lowbit {
namespace {

// For kernels/simd/avx2.h. F16C is CPUID leaf 1, ECX bit 29 (Intel's manual); clang 14 to 16 have
// no name for it.
[[maybe_unused]] bool has_avx2() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 29 & 1) != 0;
}

// For kernels/simd/avx512.h.
[[maybe_unused]] bool has_avx512_vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace
}  // namespace lowbit
