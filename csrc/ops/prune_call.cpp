#include <algorithm>
#include <stdexcept>
#include <string>

#include "ops/prune_kernels.hpp"

namespace fluxcore {

KeyKind key_kind_from_name(std::string_view name) {
  if (name == "magnitude") return KeyKind::magnitude;
  if (name == "gradient") return KeyKind::gradient;
  if (name == "random") return KeyKind::random;
  throw std::invalid_argument("`kind` must be one of `magnitude`, `gradient`, `random`, got `" + std::string(name) +
                              "`");
}

const PruneKernels& prune_kernels(Isa isa) {
  if (std::ranges::find(available_isas(), isa) == available_isas().end()) {
    throw std::invalid_argument("`isa` must be available here, got `" + std::string(isa_name(isa)) +
                                "`; the widest is `" + std::string(isa_name(available_isas().back())) + "`");
  }
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::prune_kernels();
  if (isa == Isa::avx2) return avx2::prune_kernels();
#endif
  return portable::prune_kernels();
}

std::vector<PruneChunk> prune_chunks(const std::vector<PruneTensor>& tensors, std::int64_t block) {
  std::int64_t total = 0;
  for (const PruneTensor& tensor : tensors) {
    if (tensor.dtype == DType::float64) {
      throw std::invalid_argument("`dtype` must be one of `float32`, `bfloat16`, `float16`, got `float64`");
    }
    total += tensor.count;
  }
  // At least 32 blocks, so that a histogram a chunk costs little beside its elements.
  const std::int64_t blocks = std::max<std::int64_t>(32, total / (1024 * block));
  const std::int64_t size = blocks * block;
  std::vector<PruneChunk> chunks;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    for (std::int64_t begin = 0; begin < tensors[t].count; begin += size) {
      chunks.push_back(
          {.tensor = static_cast<std::int64_t>(t), .begin = begin, .end = std::min(begin + size, tensors[t].count)});
    }
  }
  return chunks;
}

}  // namespace fluxcore
