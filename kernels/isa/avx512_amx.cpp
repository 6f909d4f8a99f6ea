#include "kernels/simd/avx512.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/impl/entry.h"
#include "kernels/impl/linear_amx.h"
#include "kernels/isa/x86_cpu.h"

namespace lowbit {

extern const Isa kAvx512Vnni;

namespace {

struct Avx512Amx : Avx512Vnni {
  static constexpr int kRowTile = kAmxTokens;
};

// CPUID leaf 7: EDX bits 24 (AMX-TILE) and 25 (AMX-INT8). Linux hands out the tiles' state on
// request (Documentation/arch/x86/xstate.rst: ARCH_REQ_XCOMP_PERM, feature 18).
bool has_amx() {
  if (!has_bits(cpu_words(7).edx, 3u << 24)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

extern const FloatKernels kAvx512Floats;

// Constant-initialized: no code of this file runs before the CPU is known to have its instructions.
extern constinit const Isa kAvx512Amx = {
    .name = "avx512_amx",
    .supported = [] { return has_avx512_vnni() && has_amx(); },
    .tile = tile_of<Avx512Amx>,
    .quantize = quantize_tile<Avx512Amx>,
    .linear_a8wx = linear_amx_range<Avx512Amx, kAvx512Vnni>,
    .dot_peak = dot_peak<Avx512Amx>,
    .floats = &kAvx512Floats};

}  // namespace lowbit
