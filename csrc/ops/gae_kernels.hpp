#pragma once

#include <cstdint>

#include "ops/gae.hpp"

// The recursion over time, several rows side by side, once for each instruction set.
namespace fluxcore {

// Columns that one call of `columns` may take, and the least worth one: with bytes for `dones`, a cache line of each
// step. A step of a narrow block is in another page of each array, and the processor looks up every one; a wide block
// keeps what it carries in the L1 cache.
inline constexpr std::int64_t kGaeColumns = 1024;
inline constexpr std::int64_t kFewestGaeColumns = 64;

struct GaeKernels {
  // Rows of the list [outer, inner] that `rows` takes at a time.
  std::int64_t lanes;
  // Rows [first, first + count), any count up to `lanes`, wherever their steps lie.
  void (*rows)(const GaeCall& call, const GaeResults& results, std::int64_t first, std::int64_t count);
  // The same for neighbours within one slab: a multiple of `lanes`, at most kGaeColumns.
  void (*columns)(const GaeCall& call, const GaeResults& results, std::int64_t first, std::int64_t count);
};

namespace portable {
const GaeKernels& gae_kernels(DType dtype);
}
namespace avx2 {
const GaeKernels& gae_kernels(DType dtype);
}
namespace avx512 {
const GaeKernels& gae_kernels(DType dtype);
}

}  // namespace fluxcore
