#pragma once

#include <cpuid.h>

#include <cstdint>

// Whether this CPU has what the vectors of kernels/simd/ are made of, by CPUID and XCR0 (Intel's manual,
// volume 1, chapters 14 and 15): what compilers have for it (__builtin_cpu_supports) needs their run-time
// library, which zig's lacks. Not shared between files: each compiles these with its own instruction set.
namespace lowbit {
namespace {

struct CpuWords {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Zeros where the CPU has no such leaf.
[[maybe_unused]] CpuWords cpu_words(unsigned leaf, unsigned subleaf = 0) {
  CpuWords words;
  __get_cpuid_count(leaf, subleaf, &words.eax, &words.ebx, &words.ecx, &words.edx);
  return words;
}

[[maybe_unused]] constexpr bool has_bits(uint64_t word, uint64_t bits) { return (word & bits) == bits; }

// Whether the system keeps the registers' parts of XCR0's `bits` (2: XMM, 4: YMM, 0xe0: AVX-512's).
[[maybe_unused]] bool system_keeps(unsigned bits) {
  constexpr unsigned kOsXsave = 1u << 27;
  if (!has_bits(cpu_words(1).ecx, kOsXsave)) return false;
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return has_bits(low, bits);
}

// For kernels/simd/avx2.h.
[[maybe_unused]] bool has_avx2() {
  constexpr unsigned kFma = 1u << 12, kAvx = 1u << 28, kF16c = 1u << 29, kAvx2 = 1u << 5;
  return has_bits(cpu_words(1).ecx, kFma | kAvx | kF16c) && has_bits(cpu_words(7).ebx, kAvx2) && system_keeps(6);
}

// For kernels/simd/avx512.h.
[[maybe_unused]] bool has_avx512_vnni() {
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31, kVnni = 1u << 11;
  const CpuWords seven = cpu_words(7);
  return has_avx2() && has_bits(seven.ebx, kF | kDq | kBw | kVl) && has_bits(seven.ecx, kVnni) &&
         system_keeps(0xe6);
}

}  // namespace
}  // namespace lowbit
