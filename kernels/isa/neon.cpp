#include "kernels/simd/neon.h"

#include "kernels/impl/entry.h"

namespace lowbit {

extern constinit const Isa kNeon = make_entry<Neon>("neon", [] { return true; });

}  // namespace lowbit
