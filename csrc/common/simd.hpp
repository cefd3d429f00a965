#pragma once

// Vectors of the widest registers of one instruction set, so that one kernel source serves all sets.
//
// A file that includes this is compiled once a set by fluxcore_simd_sources (csrc/CMakeLists.txt), which defines
// FLUXCORE_ISA as the set's name; everything below and in the kernel lives in a namespace of that name, so that no
// function compiled for a wide set can stand in for a narrow one at link time. For the same reason such a file uses no
// inline function of the standard library that the compiler could leave out of line.

#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/dtype.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Without optimisation some intrinsics are macros, whose casts are not ours to mend.
#pragma GCC diagnostic ignored "-Wsign-conversion"

#ifndef FLUXCORE_ISA
#error "compile this file through fluxcore_simd_sources"
#endif

namespace fluxcore::FLUXCORE_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T>
  requires std::is_arithmetic_v<T>
struct VecOf {
  using type [[gnu::vector_size(kVectorBytes)]] = T;
};
template <class T>
struct HalfVecOf {
  using type [[gnu::vector_size(kVectorBytes / 2)]] = T;
};
// C is float or double; arithmetic on vectors is the compiler's own.
template <class C>
using Vec = typename VecOf<C>::type;
// Half a register: as many lanes as Vec has of a type twice as wide.
template <class T>
using HalfVec = typename HalfVecOf<T>::type;
template <class C>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(C));
// Elements of what load_both reads.
template <class C>
inline constexpr int kGroup = 2 * kLanes<C>;

template <class C>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = std::int32_t;
};
template <>
struct BitsOf<double> {
  using type = std::int64_t;
};
template <class C>
using IntVec = Vec<typename BitsOf<C>::type>;

template <class C>
inline Vec<C> splat(C value) {
  return value - Vec<C>{};
}

template <class To, class From>
inline To bits_as(From from) {
  return __builtin_bit_cast(To, from);
}

// make<T>() for the element type T that dtype names.
template <class Make>
inline decltype(auto) for_element_type(DType dtype, Make make) {
  switch (dtype) {
    case DType::float32:
      return make.template operator()<float>();
    case DType::bfloat16:
      return make.template operator()<BFloat16>();
    case DType::float16:
      return make.template operator()<Float16>();
    case DType::float64:
      break;
  }
  return make.template operator()<double>();
}

// The larger lane of each; b where either is NaN.
template <class C>
inline Vec<C> max_or_second(Vec<C> a, Vec<C> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) {
    return _mm512_max_ps(a, b);
  } else {
    return _mm512_max_pd(a, b);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 4) {
    return _mm256_max_ps(a, b);
  } else {
    return _mm256_max_pd(a, b);
  }
#else
  return a > b ? a : b;
#endif
}

// A bit for each lane where a >= b; NaN is not.
template <class C>
inline std::uint32_t lanes_at_least(Vec<C> a, Vec<C> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
  } else {
    return _mm512_cmp_pd_mask(a, b, _CMP_GE_OQ);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 4) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
  } else {
    return static_cast<std::uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_GE_OQ)));
  }
#else
  std::uint32_t lanes = 0;
  for (int lane = 0; lane < kLanes<C>; ++lane) lanes |= static_cast<std::uint32_t>(a[lane] >= b[lane]) << lane;
  return lanes;
#endif
}

template <class C>
inline C lane_max(Vec<C> v) {
  C best = v[0];
  for (int lane = 1; lane < kLanes<C>; ++lane) best = v[lane] > best ? v[lane] : best;
  return best;
}

// Lanes are added in double: what a row adds up from its blocks keeps every bit of them.
inline double lane_sum(Vec<double> v) {
  double sum = 0.0;
  for (int lane = 0; lane < kLanes<double>; ++lane) sum += v[lane];
  return sum;
}

inline double lane_sum(Vec<float> v) {
  struct Halves {
    HalfVec<float> low;
    HalfVec<float> high;
  };
  const auto halves = bits_as<Halves>(v);
  return lane_sum(__builtin_convertvector(halves.low, Vec<double>) + __builtin_convertvector(halves.high, Vec<double>));
}

// --- 16-bit numbers, one at a time -----------------------------------------------------------------------------------

inline float to_compute(float x) { return x; }
inline double to_compute(double x) { return x; }
inline float to_compute(BFloat16 x) { return bits_as<float>(static_cast<std::uint32_t>(x.bits) << 16); }
inline float to_compute(Float16 x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000U) << 16;
  const std::uint32_t magnitude = static_cast<std::uint32_t>(x.bits & 0x7fffU) << 13;
  if (magnitude >= 0x0f800000U) return bits_as<float>(sign | magnitude | 0x7f800000U);  // inf, NaN
  // Moving the exponent's bias by a product is exact and puts subnormals right too.
  const float value = bits_as<float>(magnitude) * 0x1p112F;
  return bits_as<float>(sign | bits_as<std::uint32_t>(value));
}

inline void from_compute(float x, float* out) { *out = x; }
inline void from_compute(double x, double* out) { *out = x; }
inline void from_compute(float x, BFloat16* out) {
  const auto bits = bits_as<std::uint32_t>(x);
  if (x != x) {
    out->bits = static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  } else {
    out->bits = static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
  }
}
inline void from_compute(float x, Float16* out) {
  const auto bits = bits_as<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U;
  } else if (magnitude >= 0x477ff000U) {  // 65520 and above round to inf
    half = 0x7c00U;
  } else if (magnitude < 0x38800000U) {  // subnormal: adding 0.5 rounds to multiples of 2^-24
    half = bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5F) - 0x3f000000U;
  } else {
    half = (magnitude + 0xc8000fffU + ((magnitude >> 13) & 1U)) >> 13;  // rebias the exponent, round to even
  }
  out->bits = static_cast<std::uint16_t>(sign | half);
}

// --- Whole vectors; memory need not be aligned
// -------------------------------------------------------------------------

template <std::floating_point C>
inline Vec<C> load(const C* from) {
  Vec<C> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

inline Vec<float> load(const BFloat16* from) {
  HalfVec<std::uint16_t> half;
  std::memcpy(&half, from, sizeof(half));
  return bits_as<Vec<float>>(__builtin_convertvector(half, Vec<std::uint32_t>) << 16);
}

inline Vec<float> load(const Float16* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  Vec<float> v;
  for (int lane = 0; lane < kLanes<float>; ++lane) v[lane] = to_compute(from[lane]);
  return v;
#endif
}

template <std::floating_point C>
inline void store(Vec<C> v, C* to) {
  std::memcpy(to, &v, sizeof(v));
}

// Rounded in the upper half; what the lower one holds does not matter.
inline Vec<std::uint32_t> rounded_to_bfloat16(Vec<float> v) {
  const auto bits = bits_as<Vec<std::uint32_t>>(v);
  const Vec<std::uint32_t> rounded = bits + 0x7fffU + ((bits >> 16) & 1U);
  return v != v ? bits | 0x400000U : rounded;
}

inline void store(Vec<float> v, BFloat16* to) {
  const auto half = __builtin_convertvector(rounded_to_bfloat16(v) >> 16, HalfVec<std::uint16_t>);
  std::memcpy(to, &half, sizeof(half));
}

inline void store(Vec<float> v, Float16* to) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int lane = 0; lane < kLanes<float>; ++lane) from_compute(v[lane], to + lane);
#endif
}

// --- Two vectors at a time, for loops in which it does not matter which lane an element is in
// --------------------------

template <class C>
struct Both {
  Vec<C> part[2];
};

template <class Src>
inline Both<ComputeType<Src>> load_both(const Src* from) {
  return {{load(from), load(from + kLanes<ComputeType<Src>>)}};
}

// Elements of even places and of odd ones: the halves of 32 bits are widened where they are.
inline Both<float> load_both(const BFloat16* from) {
  Vec<std::uint32_t> pairs;
  std::memcpy(&pairs, from, sizeof(pairs));
  return {{bits_as<Vec<float>>(pairs << 16), bits_as<Vec<float>>(pairs & 0xffff0000U)}};
}

template <class C, class Src>
inline void store_both(const Both<C>& both, Src* to) {
  store(both.part[0], to);
  store(both.part[1], to + kLanes<C>);
}

inline void store_both(const Both<float>& both, BFloat16* to) {
  const Vec<std::uint32_t> pairs =
      (rounded_to_bfloat16(both.part[0]) >> 16) | (rounded_to_bfloat16(both.part[1]) & 0xffff0000U);
  std::memcpy(to, &pairs, sizeof(pairs));
}

}  // namespace fluxcore::FLUXCORE_ISA
