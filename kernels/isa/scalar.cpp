#include "kernels/simd/scalar.h"

#include "kernels/impl/entry.h"

namespace lowbit {

extern const FloatKernels kScalarFloats;
extern constinit const Isa kScalar = make_entry<Scalar>("scalar", [] { return true; }, kScalarFloats);

}  // namespace lowbit
