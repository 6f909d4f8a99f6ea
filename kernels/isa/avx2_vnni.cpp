#include "kernels/simd/avx2.h"

#include "kernels/impl/entry.h"
#include "kernels/isa/x86_cpu.h"

namespace lowbit {
namespace {

// CPUID leaf 7, subleaf 1, EAX bit 4 (Intel's manual, AVX-VNNI).
bool has_avx_vnni() { return has_bits(cpu_words(7, 1).eax, 1u << 4); }

}  // namespace

extern const FloatKernels kAvx2Floats;

// Constant-initialized: no code of this file runs before the CPU is known to have its instructions.
extern constinit const Isa kAvx2Vnni = make_entry<Avx2Vnni>("avx2_vnni", [] {
  return has_avx2() && has_avx_vnni();
}, kAvx2Floats);

}  // namespace lowbit
