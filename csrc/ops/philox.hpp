#pragma once

// Random numbers that depend on nothing but a key, a step, a stream and an index. Include after common/simd.hpp, in
// files that fluxcore_simd_sources compiles.
//
// Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011): Philox4x32-10.
//
// A counter serves four neighbours: index i takes word i % 4 of counter i / 4. Words of the counter: its low half, its
// high half with the stream in the top bit, the low and the high half of the step.

#include "common/simd.hpp"
#include "common/simd_transpose.hpp"

#if defined(__SSE2__) && !defined(__AVX2__)
#include <emmintrin.h>
#endif

namespace fluxcore::FLUXCORE_ISA {

using Words = Vec<std::uint32_t>;

inline constexpr int kPhiloxBlock = 64;

enum class PhiloxStream : std::uint32_t { choice = 0, normal = 1 };

// 64-bit lanes with a word of every second counter in their low halves; what is in the high halves does not matter. So
// a product need not be taken apart: its low half stays where it is, and its high half is one shift away.
using Spread = Vec<std::uint64_t>;

// The 64 bits of each low half times b.
inline Spread multiply(Spread a, std::uint32_t b) {
#if defined(__AVX512F__)
  return bits_as<Spread>(_mm512_mul_epu32(bits_as<__m512i>(a), _mm512_set1_epi64(b)));
#elif defined(__AVX2__)
  return bits_as<Spread>(_mm256_mul_epu32(bits_as<__m256i>(a), _mm256_set1_epi64x(b)));
#elif defined(__SSE2__)
  return bits_as<Spread>(_mm_mul_epu32(bits_as<__m128i>(a), _mm_set1_epi64x(b)));
#else
  return (a & 0xffffffffU) * b;
#endif
}

// A key's words for each of the ten rounds, in every lane: spread out once, for all counters of a stretch.
struct PhiloxKey {
  explicit PhiloxKey(std::uint64_t key) {
    auto k0 = static_cast<std::uint32_t>(key);
    auto k1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      low[round] = Spread{} + k0;
      high[round] = Spread{} + k1;
      k0 += 0x9e3779b9U;
      k1 += 0xbb67ae85U;
    }
  }

  Spread low[10];
  Spread high[10];
};

inline void philox_round(Spread (&c)[4], Spread k0, Spread k1) {
  const Spread first = multiply(c[0], 0xd2511f53U);
  const Spread second = multiply(c[2], 0xcd9e8d57U);
  c[0] = (second >> 32) ^ c[1] ^ k0;
  c[1] = second;
  c[2] = (first >> 32) ^ c[3] ^ k1;
  c[3] = first;
}

// Ten rounds on one counter a lane.
inline void philox(const PhiloxKey& key, Words (&c)[4]) {
  Spread even[4];
  Spread odd[4];
  for (int word = 0; word < 4; ++word) {
    even[word] = bits_as<Spread>(c[word]);
    odd[word] = even[word] >> 32;
  }
  for (int round = 0; round < 10; ++round) {
    philox_round(even, key.low[round], key.high[round]);
    philox_round(odd, key.low[round], key.high[round]);
  }
  for (int word = 0; word < 4; ++word) c[word] = bits_as<Words>((even[word] & 0xffffffffU) | odd[word] << 32);
}

// From a vector for each word to the order of indices, in which a counter's four words lie side by side. Only lanes of
// the same four trade places, which costs least: so lane 4 q + j must have had counter j kLanes / 4 + q.
inline void in_order(Vec<float> (&numbers)[4]) { transpose<float, 4>(numbers); }

// The words of counters first + more[i], in the order that in_order puts right.
inline void philox_words(const PhiloxKey& key, std::uint64_t step, PhiloxStream stream, std::uint64_t first,
                         const std::uint32_t* more, Words (&c)[4]) {
  for (int i = 0; i < kLanes<float>; ++i) c[0][i] = more[kLanes<float> / 4 * (i % 4) + i / 4];
  c[0] += static_cast<std::uint32_t>(first);
  const auto carry = bits_as<Words>(c[0] < static_cast<std::uint32_t>(first));  // as -1
  c[1] = (static_cast<std::uint32_t>(first >> 32) - carry) | static_cast<std::uint32_t>(stream) << 31;
  c[2] = Words{} + static_cast<std::uint32_t>(step);
  c[3] = Words{} + static_cast<std::uint32_t>(step >> 32);
  philox(key, c);
}

// The words of one block of 64 indices, in their order.
inline void random_words(const PhiloxKey& key, std::uint64_t step, std::int64_t block, std::uint32_t* out) {
  constexpr std::uint32_t kCounters[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int more = 0; more < 16; more += kLanes<float>) {
    Words c[4];
    philox_words(key, step, PhiloxStream::choice, 16 * static_cast<std::uint64_t>(block), kCounters + more, c);
    Vec<float> words[4];
    for (int word = 0; word < 4; ++word) words[word] = bits_as<Vec<float>>(c[word]);
    in_order(words);
    std::memcpy(out + 4 * static_cast<std::ptrdiff_t>(more), words, sizeof(words));
  }
}

inline Vec<float> root(Vec<float> x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  for (int lane = 0; lane < kLanes<float>; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
  return x;
#endif
}

// sqrt(-2 ln u) with u = (word / 256 + 1) / 2^24, within (0, 1]. The logarithm is n ln 2 + 2 artanh(f / (2 + f)).
inline Vec<float> normal_radius(Words word) {
  const Vec<float> u = __builtin_convertvector(bits_as<Vec<std::int32_t>>((word >> 8) + 1U), Vec<float>) * 0x1p-24F;
  const auto bits = bits_as<Vec<std::int32_t>>(u);
  const Vec<std::int32_t> n = (bits - 0x3f3504f3) >> 23;  // u = (1 + f) 2^n, 1 + f within [sqrt 1/2, sqrt 2)
  const Vec<float> f = bits_as<Vec<float>>(bits - (n << 23)) - 1.0F;
  const Vec<float> s = f / (2.0F + f);
  const Vec<float> z = s * s;
  const Vec<float> tail = z * (0.333333333F + z * (0.2F + z * (0.142857143F + z * 0.111111111F)));
  const Vec<float> power = __builtin_convertvector(n, Vec<float>);
  // ln 2 in two parts, of which n times the first is exact.
  // NOLINTNEXTLINE(modernize-use-std-numbers)
  const Vec<float> log = power * 0x1.63p-1F + (2.0F * s + (2.0F * s * tail + power * -2.12194440e-4F));
  return root(log * -2.0F);
}

// sin(pi/2 t) for t within [0, 1], accurate also relative to itself.
inline Vec<float> sine_of_quarter(Vec<float> t) {
  const Vec<float> y = t * t;
  const Vec<float> tail =
      -0.645964098F +
      y * (0.0796926262F + y * (-0.00468175414F + y * (1.60441185e-4F + y * (-3.59884324e-6F + y * 5.69217292e-8F))));
  return t * (1.57079633F + y * tail);
}

// Box-Muller: the numbers of indices with words 0 and 1 of a counter (or 2 and 3) are the cosine and the sine.
inline void normal_pair(Words first, Words second, Vec<float>& cosine, Vec<float>& sine) {
  const Vec<float> radius = normal_radius(first);
  const auto rest = bits_as<Vec<std::int32_t>>((second >> 8) & 0x3fffffU);
  const Vec<float> t = __builtin_convertvector(rest, Vec<float>) * 0x1p-22F;  // of a quarter turn; 1 - t is exact too
  const Vec<float> rising = sine_of_quarter(t);
  const Vec<float> falling = sine_of_quarter(1.0F - t);
  const Words quarter = second >> 30;
  const auto odd = (quarter & 1U) != 0U;
  const Words cosine_sign = ((quarter + 1U) & 2U) << 30;
  const Words sine_sign = (quarter & 2U) << 30;
  cosine = radius * bits_as<Vec<float>>(bits_as<Words>(odd ? rising : falling) ^ cosine_sign);
  sine = radius * bits_as<Vec<float>>(bits_as<Words>(odd ? falling : rising) ^ sine_sign);
}

// Normal numbers of the indices of kLanes counters, first + more[i]: four a counter, in the order of `more`.
inline void normals(const PhiloxKey& key, std::uint64_t step, std::uint64_t first, const std::uint32_t* more,
                    float* out) {
  Words c[4];
  philox_words(key, step, PhiloxStream::normal, first, more, c);
  Vec<float> numbers[4];
  for (int pair = 0; pair < 4; pair += 2) normal_pair(c[pair], c[pair + 1], numbers[pair], numbers[pair + 1]);
  in_order(numbers);
  std::memcpy(out, numbers, sizeof(numbers));
}

}  // namespace fluxcore::FLUXCORE_ISA
