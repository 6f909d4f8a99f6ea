#include "kernels/simd/neon.h"

#include "kernels/arm_features.h"
#include "kernels/impl/entry.h"

namespace lowbit {

extern const FloatKernels kNeonFloats;

extern constinit const Isa kNeonI8mm = make_entry<NeonI8mm>(
    "neon_i8mm", [] { return arm_features().i8mm; }, kNeonFloats);

}  // namespace lowbit
