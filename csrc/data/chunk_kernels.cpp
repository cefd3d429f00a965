#include "data/chunk_kernels.hpp"

#include "common/cpu.hpp"

namespace fluxcore::data {

const ChunkKernels& chunk_kernels(TokenType token, OutType out) {
#if defined(__x86_64__)
  static const Isa isa = best_isa();
  if (isa == Isa::avx512) return avx512::chunk_kernels(token, out);
  if (isa == Isa::avx2) return avx2::chunk_kernels(token, out);
#endif
  return portable::chunk_kernels(token, out);
}

}  // namespace fluxcore::data
