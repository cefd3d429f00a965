#pragma once

#include <string_view>
#include <vector>

namespace fluxcore {

// Instruction sets that the SIMD kernels are compiled for, narrowest first.
// `portable` is the compiler's baseline: SSE2 on x86-64, NEON on 64-bit Arm.
enum class Isa { portable, avx2, avx512 };

std::string_view isa_name(Isa isa) noexcept;

// Throws std::invalid_argument that lists the names, for another name.
Isa isa_from_name(std::string_view name);

// Those that this processor and this build both have, narrowest first; never empty.
const std::vector<Isa>& available_isas();

// The widest available one, unless the environment variable FLUXCORE_ISA names a narrower one.
// Throws std::invalid_argument when FLUXCORE_ISA names one that is unknown or not available here.
Isa best_isa();

}  // namespace fluxcore
