#include "kernels/simd/avx512.h"

#include "kernels/impl/entry.h"
#include "kernels/isa/x86_cpu.h"

namespace lowbit {

// Constant-initialized: no code of this file runs before the CPU is known to have its instructions.
extern constinit const FloatKernels kAvx512Floats = make_floats<Avx512Vnni>();
extern constinit const Isa kAvx512Vnni =
    make_entry<Avx512Vnni>("avx512_vnni", has_avx512_vnni, kAvx512Floats);

}  // namespace lowbit
