#pragma once

#include <cstdint>

#include "common/cpu.hpp"
#include "common/dtype.hpp"

// Generalized advantage estimation over slabs of [T, inner]; the formulas are those of fluxcore/reference/gae.py.
// `wide` is double for double rewards, float for all others.
namespace fluxcore {

struct GaeCall {
  const void* rewards = nullptr;       // [outer, T, inner], contiguous as all that follows
  const void* values = nullptr;        // the same, of the same type
  DType dtype = DType::float32;        // of these two
  const void* dones = nullptr;         // the same in bytes 0 or 1, or wide
  bool dones_are_bytes = true;         //
  const void* bootstrap = nullptr;     // [outer, inner] wide
  const std::uint8_t* mask = nullptr;  // [outer, T, inner], 0 where a step does not count, or none
  const void* ratio = nullptr;         // [outer, T, inner] wide, or none
  std::int64_t outer = 0;
  std::int64_t steps = 0;  // T
  std::int64_t inner = 0;
  double gamma = 1.0;
  double lam = 1.0;
  double rho_clip = 1.0;  // these two act on a ratio alone
  double c_clip = 1.0;
  int threads = 1;
  Isa isa = Isa::portable;
};

struct GaeResults {
  void* advantages;  // [outer, T, inner] wide
  void* returns;     // the same
};

// Steps that do not count get 0 in both and hide nothing from those before them. Results depend neither on the number
// of threads nor on whether time is the inner or the outer dimension. Throws std::invalid_argument for a negative size.
void gae(const GaeCall& call, const GaeResults& results);

}  // namespace fluxcore
