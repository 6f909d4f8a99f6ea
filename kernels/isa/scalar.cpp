#include "kernels/simd/scalar.h"

#include "kernels/impl/entry.h"

namespace lowbit {

extern constinit const FloatKernels kScalarFloats = make_floats<Scalar>();
extern constinit const Isa kScalar = make_entry<Scalar>("scalar", [] { return true; }, kScalarFloats);

}  // namespace lowbit
