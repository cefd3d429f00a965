#pragma once

// Vectors of keys, what is counted and chosen of them, and patterns of N of M. Include in files that
// fluxcore_simd_sources compiles.

#include "common/simd.hpp"
#include "ops/philox.hpp"
#include "ops/prune_kernels.hpp"

namespace fluxcore::FLUXCORE_ISA {

inline constexpr std::int64_t kVector = kLanes<float>;

inline Words load_words(const std::uint32_t* from) {
  Words words;
  std::memcpy(&words, from, sizeof(words));
  return words;
}

inline void store_words(Words words, std::uint32_t* to) { std::memcpy(to, &words, sizeof(words)); }

// A byte for each lane.
using Bytes [[gnu::vector_size(kVector)]] = std::uint8_t;

inline Words widen_bytes(const std::uint8_t* from) {
#if defined(__AVX512F__)
  return bits_as<Words>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return bits_as<Words>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return __builtin_convertvector(bytes, Words);
#endif
}

// Lanes of all ones as 1, of all zeros as 0.
inline void store_flags(Words hits, std::uint8_t* to) {
#if defined(__AVX512F__)
  const __mmask16 mask = _mm512_movepi32_mask(bits_as<__m512i>(hits));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_maskz_set1_epi8(mask, 1));
#elif defined(__AVX2__)
  const auto words = bits_as<__m256i>(hits & 1U);
  const __m128i shorts = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(shorts, shorts));
#else
  const Bytes bytes = __builtin_convertvector(hits & 1U, Bytes);
  std::memcpy(to, &bytes, sizeof(bytes));
#endif
}

inline std::int64_t lane_count(Words counts) {
  std::int64_t sum = 0;
  for (int lane = 0; lane < kVector; ++lane) sum += counts[lane];
  return sum;
}

// Appends lanes of words[0, kVector) to out where `hits` is all ones; returns how many.
inline std::int64_t append(const std::uint32_t* words, Words hits, std::uint32_t* out) {
#if defined(__AVX512F__)
  const __mmask16 mask = _mm512_movepi32_mask(bits_as<__m512i>(hits));
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(mask, bits_as<__m512i>(load_words(words))));
  return __builtin_popcount(mask);
#elif defined(__AVX2__)
  auto mask = static_cast<unsigned>(_mm256_movemask_ps(bits_as<__m256>(hits)));
  if (mask == 0) return 0;
  std::int64_t n = 0;
  for (; mask != 0; mask &= mask - 1) out[n++] = words[__builtin_ctz(mask)];
  return n;
#else
  std::int64_t n = 0;
  for (int lane = 0; lane < kVector; ++lane) {
    out[n] = words[lane];
    n += hits[lane] & 1U;
  }
  return n;
#endif
}

// As signed numbers, keys of what is no candidate are the smallest.
inline bool is_larger(const std::uint32_t* keys, std::int64_t i, std::int64_t j) {
  const auto a = bits_as<std::int32_t>(keys[i]);
  const auto b = bits_as<std::int32_t>(keys[j]);
  return b > a || (b == a && j > i);
}

using Ints = Vec<std::int32_t>;

// Lane l of each four consecutive ones becomes lane (l + By) % 4 of them.
template <int By>
inline Ints rotate_fours(Ints x) {
  constexpr int kOrder = By == 1 ? 0x39 : By == 2 ? 0x4e : 0x93;
#if defined(__AVX512F__)
  return bits_as<Ints>(_mm512_shuffle_epi32(bits_as<__m512i>(x), static_cast<_MM_PERM_ENUM>(kOrder)));
#elif defined(__AVX2__)
  return bits_as<Ints>(_mm256_shuffle_epi32(bits_as<__m256i>(x), kOrder));
#elif defined(__SSE2__)
  return bits_as<Ints>(_mm_shuffle_epi32(bits_as<__m128i>(x), kOrder));
#else
  Ints y{};
  for (int lane = 0; lane < kVector; ++lane) y[lane] = x[(lane & ~3) | (kOrder >> 2 * (lane & 3) & 3)];
  return y;
#endif
}

// -1 where the lane By further on in each four is larger, or the same and not wrapped around; else 0.
template <int By>
inline Ints is_larger_by(Ints own) {
  Ints later{};
  for (int lane = 0; lane < kVector; ++lane) later[lane] = (lane & 3) + By < 4 ? -1 : 0;
  const Ints other = rotate_fours<By>(own);
  return (other > own) | ((other == own) & later);
}

// Groups of four, a whole vector at a time; returns how many elements are done, and adds the chosen ones to n.
inline std::int64_t all_but_largest_of_four(const std::uint32_t* keys, std::int64_t count, int keep,
                                            std::uint8_t* chosen, std::int64_t& n) {
  Words hits{};
  std::int64_t i = 0;
  for (; i + kVector <= count; i += kVector) {
    const auto own = bits_as<Ints>(load_words(keys + i));
    const Ints larger = Ints{} - is_larger_by<1>(own) - is_larger_by<2>(own) - is_larger_by<3>(own);
    const auto hit = bits_as<Words>((larger >= keep) & (own >= 0));
    hits -= hit;
    store_flags(hit, chosen + i);
  }
  n += lane_count(hits);
  return i;
}

inline std::int64_t all_but_largest(const std::uint32_t* keys, std::int64_t count, int keep, int group,
                                    std::uint8_t* chosen) {
  std::int64_t n = 0;
  std::int64_t begin = group == 4 ? all_but_largest_of_four(keys, count, keep, chosen, n) : 0;
  for (; begin < count; begin += group) {
    for (std::int64_t i = begin; i < begin + group; ++i) {
      int larger = 0;
      for (std::int64_t j = begin; j < begin + group; ++j) larger += is_larger(keys, i, j) ? 1 : 0;
      chosen[i] = keys[i] <= kMaxKey && larger >= keep ? 1 : 0;
      n += chosen[i];
    }
  }
  return n;
}

}  // namespace fluxcore::FLUXCORE_ISA
