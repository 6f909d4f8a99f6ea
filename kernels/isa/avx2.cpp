#include "kernels/simd/avx2.h"

#include "kernels/impl/entry.h"

namespace lowbit {

// Constant-initialized: no code of this file runs before the CPU is known to have its instructions.
extern constinit const FloatKernels kAvx2Floats = make_floats<Avx2>();
extern constinit const Isa kAvx2 = make_entry<Avx2>("avx2", [] {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}, kAvx2Floats);

}  // namespace lowbit
