#include "kernels/simd/neon.h"

#include "kernels/impl/entry.h"

namespace lowbit {

extern constinit const FloatKernels kNeonFloats = make_floats<Neon>();
extern constinit const Isa kNeon = make_entry<Neon>("neon", [] { return true; }, kNeonFloats);

}  // namespace lowbit
