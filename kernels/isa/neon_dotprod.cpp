#include "kernels/simd/neon.h"

#include "kernels/arm_features.h"
#include "kernels/impl/entry.h"

namespace lowbit {

extern const FloatKernels kNeonFloats;

extern constinit const Isa kNeonDotprod = make_entry<NeonDotprod>(
    "neon_dotprod", [] { return arm_features().dotprod; }, kNeonFloats);

}  // namespace lowbit
