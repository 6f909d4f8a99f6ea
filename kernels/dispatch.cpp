#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels/isa.h"

namespace lowbit {

extern const Isa kAvx512Amx, kAvx512Vnni, kAvx2Vnni, kAvx2, kNeonI8mm, kNeonDotprod, kNeon, kScalar;

namespace {

// The priority table: the best first.
constexpr const Isa* kIsas[] = {
#if defined(__x86_64__)
#if defined(__linux__)
    &kAvx512Amx,
#endif
    &kAvx512Vnni, &kAvx2Vnni, &kAvx2,
#elif defined(__aarch64__)
    &kNeonI8mm, &kNeonDotprod, &kNeon,
#endif
    &kScalar,
};

}  // namespace

std::span<const Isa* const> all_isas() { return kIsas; }

const Isa& find_isa(const char* name) {
  const std::string_view wanted = name == nullptr ? "" : name;
  std::string names;
  for (const Isa* entry : kIsas) {
    if (!wanted.empty() && wanted == entry->name && !entry->supported()) {
      throw std::runtime_error("LOWBIT_ISA=" + std::string(wanted) +
                               ": this CPU does not have it; unset it");
    }
    if (!entry->supported()) continue;
    if (wanted.empty() || wanted == entry->name) return *entry;
    names += std::string(names.empty() ? "" : ", ") + entry->name;
  }
  throw std::runtime_error("LOWBIT_ISA=" + std::string(wanted) + " is unknown; use one of " + names +
                           ", or unset it");
}

const Isa& isa() {
  static const Isa& chosen = find_isa(std::getenv("LOWBIT_ISA"));
  return chosen;
}

const char* isa_name() { return isa().name; }

}  // namespace lowbit
