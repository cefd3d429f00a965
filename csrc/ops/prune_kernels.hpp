#pragma once

#include <cstdint>

#include "ops/prune.hpp"

// Loops over short stretches of a tensor that stay in the L1 cache, once for each instruction set.
namespace fluxcore {

inline constexpr std::int64_t kPruneBlock = 2048;
inline constexpr std::uint32_t kNoKey = 0xffffffffU;  // of an element that is no candidate
inline constexpr std::uint32_t kMaxKey = 0x7fffffffU;

// What one look at some keys finds.
struct PruneSurvey {
  std::int64_t candidates;  // elements that have a key
  std::int64_t below;       // keys < low
  std::int64_t inside;      // low <= keys <= high
};

struct PruneKernels {
  // Keys of elements [begin, begin + count), count <= kPruneBlock; `step` is for random ones.
  void (*keys)(const PruneTensor& tensor, KeyKind kind, std::uint64_t step, std::int64_t begin, std::int64_t count,
               std::uint32_t* keys);
  // Appends the keys whose bits from `shift` up equal `prefix` to out, and returns how many; out has room for 16 more.
  std::int64_t (*compress)(const std::uint32_t* keys, std::int64_t count, int shift, std::uint32_t prefix,
                           std::uint32_t* out);
  // Counts keys and appends those inside to out, which has room for 16 more than all of them.
  PruneSurvey (*survey)(const std::uint32_t* keys, std::int64_t count, std::uint32_t low, std::uint32_t high,
                        std::uint32_t* out);
  // chosen[i] = keys[i] < bound, as 0 or 1; returns how many.
  std::int64_t (*below)(const std::uint32_t* keys, std::int64_t count, std::uint32_t bound, std::uint8_t* chosen);
  // Both at once from magnitudes of bfloat16, of elements [begin, begin + count), count <= kPruneBlock.
  PruneSurvey (*survey_bfloat16)(const PruneTensor& tensor, std::int64_t begin, std::int64_t count, std::uint32_t low,
                                 std::uint32_t high, std::uint32_t* out);
  std::int64_t (*below_bfloat16)(const PruneTensor& tensor, std::int64_t begin, std::int64_t count, std::uint32_t bound,
                                 std::uint8_t* chosen);
  // Of each `group` consecutive keys (`count` is a multiple of it), chooses all but the `keep` largest, of equal ones
  // the first; what is no candidate is never chosen and is not kept for another. Returns how many.
  std::int64_t (*all_but_largest)(const std::uint32_t* keys, std::int64_t count, int keep, int group,
                                  std::uint8_t* chosen);
  // Sets elements of 2, 4 or 8 bytes to 0 where chosen.
  void (*clear)(void* data, int element_size, std::int64_t count, const std::uint8_t* chosen);
  // Sets weights [begin, begin + count) to normal numbers times the tensor's noise_std where chosen.
  void (*regrow)(const PruneTensor& tensor, std::uint64_t step, std::int64_t begin, std::int64_t count,
                 const std::uint8_t* chosen);
};

namespace portable {
const PruneKernels& prune_kernels();
}
namespace avx2 {
const PruneKernels& prune_kernels();
}
namespace avx512 {
const PruneKernels& prune_kernels();
}

// Throws std::invalid_argument if this build or this processor has no `isa`.
const PruneKernels& prune_kernels(Isa isa);

// Whether what is asked of the keys can be asked of the magnitudes themselves.
inline bool are_bfloat16_magnitudes(const PruneTensor& tensor, KeyKind kind) {
  return tensor.dtype == DType::bfloat16 && kind == KeyKind::magnitude;
}

// A stretch of one tensor that one thread works on at a time.
struct PruneChunk {
  std::int64_t tensor;
  std::int64_t begin;
  std::int64_t end;
};

// The tensors in order, each cut into stretches of a multiple of `block` elements, about a thousand in all at most.
std::vector<PruneChunk> prune_chunks(const std::vector<PruneTensor>& tensors, std::int64_t block = kPruneBlock);

}  // namespace fluxcore
