#include "kernels/simd/scalar.h"

#include "kernels/impl/entry.h"

namespace lowbit {

extern constinit const FloatKernels kScalarFloats = make_floats<Scalar>();

}  // namespace lowbit
