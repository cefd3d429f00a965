#pragma once

// Magnitudes of bfloat16, which order as 15 bits: twice as many fit a register as of their keys, which are those bits
// and 16 zeros. Include in files that fluxcore_simd_sources compiles.

#include "common/simd.hpp"
#include "ops/prune_kernels.hpp"
#include "ops/prune_vectors.hpp"

namespace fluxcore::FLUXCORE_ISA {

using Shorts = Vec<std::int16_t>;

inline constexpr std::int64_t kShorts = 2 * kVector;
inline constexpr std::int64_t kShortBlock = 64;

// Weights and mask of a stretch; no mask: all are active.
struct ShortWeights {
  const std::uint16_t* bits;
  const std::uint8_t* mask;

  ShortWeights(const PruneTensor& tensor, std::int64_t begin)
      : bits(static_cast<const std::uint16_t*>(tensor.weight) + begin),
        mask(tensor.mask == nullptr ? nullptr : tensor.mask + begin) {}

  // Bits of |w|, never negative.
  [[nodiscard]] Shorts magnitudes(std::int64_t i) const {
    Shorts own;
    std::memcpy(&own, bits + i, sizeof(own));
    return own & static_cast<std::int16_t>(0x7fff);
  }
  [[nodiscard]] int magnitude(std::int64_t i) const { return bits[i] & 0x7fff; }

  // All ones where active.
  [[nodiscard]] Shorts active(std::int64_t i) const {
    if (mask == nullptr) return Shorts{} - std::int16_t{1};
    HalfVec<std::uint8_t> bytes;
    std::memcpy(&bytes, mask + i, sizeof(bytes));
    return __builtin_convertvector(bytes, Shorts) != std::int16_t{0};
  }
  [[nodiscard]] bool is_active(std::int64_t i) const { return mask == nullptr || mask[i] != 0; }
};

inline std::int64_t lane_count(Shorts counts) {
  std::int64_t sum = 0;
  for (int lane = 0; lane < kShorts; ++lane) sum += counts[lane];
  return sum;
}

// A bit for each lane, which is all ones or all zeros.
inline std::uint64_t bits_of(const Shorts (&hits)[kShortBlock / kShorts]) {
  std::uint64_t bits = 0;
#if defined(__AVX512F__)
  for (int v = 0; v < 2; ++v) {
    bits |= static_cast<std::uint64_t>(_mm512_movepi16_mask(bits_as<__m512i>(hits[v]))) << 32 * v;
  }
#elif defined(__AVX2__)
  for (int v = 0; v < 4; v += 2) {  // packed by halves of a register, which then stand in the order 0, 2, 1, 3
    const __m256i bytes = _mm256_packs_epi16(bits_as<__m256i>(hits[v]), bits_as<__m256i>(hits[v + 1]));
    const int signs = _mm256_movemask_epi8(_mm256_permute4x64_epi64(bytes, 0xd8));
    bits |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(signs)) << 16 * v;
  }
#elif defined(__SSE2__)
  for (int v = 0; v < 8; v += 2) {
    const int signs = _mm_movemask_epi8(_mm_packs_epi16(bits_as<__m128i>(hits[v]), bits_as<__m128i>(hits[v + 1])));
    bits |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(signs)) << 8 * v;
  }
#else
  for (int i = 0; i < kShortBlock; ++i) {
    bits |= static_cast<std::uint64_t>(hits[i / kShorts][i % kShorts] & 1) << i;
  }
#endif
  return bits;
}

// As `survey` of the keys.
inline PruneSurvey survey_bfloat16(const PruneTensor& tensor, std::int64_t begin, std::int64_t count, std::uint32_t low,
                                   std::uint32_t high, std::uint32_t* out) {
  const ShortWeights weights(tensor, begin);
  const int last_below = static_cast<int>((low + 0xffffU) >> 16) - 1;  // a key is not below low if its bits exceed this
  const int last_inside = static_cast<int>(high >> 16);
  PruneSurvey found{};
  Shorts candidates{};
  Shorts below{};
  std::int64_t i = 0;
  for (; i + kShortBlock <= count; i += kShortBlock) {
    Shorts hits[kShortBlock / kShorts];
    for (std::int64_t v = 0; v < kShortBlock / kShorts; ++v) {
      const Shorts size = weights.magnitudes(i + kShorts * v);
      const Shorts active = weights.active(i + kShorts * v);
      const Shorts above = (size > static_cast<std::int16_t>(last_below)) & active;
      candidates -= active;
      below -= active & ~above;
      hits[v] = above & (size <= static_cast<std::int16_t>(last_inside));
    }
    for (std::uint64_t bits = bits_of(hits); bits != 0; bits &= bits - 1) {
      out[found.inside++] = static_cast<std::uint32_t>(weights.magnitude(i + __builtin_ctzll(bits))) << 16;
    }
  }
  found.candidates = lane_count(candidates);
  found.below = lane_count(below);
  for (; i < count; ++i) {
    if (!weights.is_active(i)) continue;
    const int size = weights.magnitude(i);
    ++found.candidates;
    found.below += size <= last_below ? 1 : 0;
    if (size > last_below && size <= last_inside) out[found.inside++] = static_cast<std::uint32_t>(size) << 16;
  }
  return found;
}

// As `below` of the keys.
inline std::int64_t below_bfloat16(const PruneTensor& tensor, std::int64_t begin, std::int64_t count,
                                   std::uint32_t bound, std::uint8_t* chosen) {
  const ShortWeights weights(tensor, begin);
  const int last = bound == 0 ? -1 : static_cast<int>((bound - 1) >> 16);
  Shorts hits{};
  std::int64_t i = 0;
  for (; i + kShorts <= count; i += kShorts) {
    const Shorts hit = (weights.magnitudes(i) <= static_cast<std::int16_t>(last)) & weights.active(i);
    hits -= hit;
    const auto flags = __builtin_convertvector(hit & std::int16_t{1}, HalfVec<std::uint8_t>);
    std::memcpy(chosen + i, &flags, sizeof(flags));
  }
  std::int64_t n = lane_count(hits);
  for (; i < count; ++i) {
    chosen[i] = weights.magnitude(i) <= last && weights.is_active(i) ? 1 : 0;
    n += chosen[i];
  }
  return n;
}

}  // namespace fluxcore::FLUXCORE_ISA
