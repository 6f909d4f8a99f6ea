#include "kernels/simd/avx512.h"

#include "kernels/impl/entry.h"

namespace lowbit {

// Constant-initialized: no code of this file runs before the CPU is known to have its instructions.
extern constinit const FloatKernels kAvx512Floats = make_floats<Avx512Vnni>();
extern constinit const Isa kAvx512Vnni = make_entry<Avx512Vnni>("avx512_vnni", [] {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}, kAvx512Floats);

}  // namespace lowbit
