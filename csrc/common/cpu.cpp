#include "common/cpu.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fluxcore {
namespace {

constexpr std::array<std::string_view, 3> kNames = {"portable", "avx2", "avx512"};

#if defined(__x86_64__)
// __builtin_cpu_supports does not know the name `f16c` in Clang 16 and older.
bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

std::vector<Isa> detect() {
  std::vector<Isa> isas = {Isa::portable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() && __builtin_cpu_supports("pclmul");
  if (avx2) isas.push_back(Isa::avx2);
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) isas.push_back(Isa::avx512);
#endif
  return isas;
}

}  // namespace

std::string_view isa_name(Isa isa) noexcept { return kNames[static_cast<std::size_t>(isa)]; }

Isa isa_from_name(std::string_view name) {
  const auto* found = std::ranges::find(kNames, name);
  if (found == kNames.end()) {
    throw std::invalid_argument("instruction set must be one of `portable`, `avx2`, `avx512`, got `" +
                                std::string(name) + "`");
  }
  return static_cast<Isa>(found - kNames.begin());
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

Isa best_isa() {
  const auto& isas = available_isas();
  const char* asked = std::getenv("FLUXCORE_ISA");
  if (asked == nullptr || *asked == '\0') return isas.back();
  const Isa isa = isa_from_name(asked);
  if (std::ranges::find(isas, isa) == isas.end()) {
    throw std::invalid_argument("FLUXCORE_ISA=" + std::string(asked) +
                                " is not available on this processor; the widest is `" +
                                std::string(isa_name(isas.back())) + "`");
  }
  return isa;
}

}  // namespace fluxcore
