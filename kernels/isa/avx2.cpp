#include "kernels/simd/avx2.h"

#include "kernels/impl/entry.h"
#include "kernels/isa/x86_cpu.h"

namespace lowbit {

// Constant-initialized: no code of this file runs before the CPU is known to have its instructions.
extern constinit const FloatKernels kAvx2Floats = make_floats<Avx2>();
extern constinit const Isa kAvx2 = make_entry<Avx2>("avx2", has_avx2, kAvx2Floats);

}  // namespace lowbit
