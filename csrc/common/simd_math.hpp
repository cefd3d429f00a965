#pragma once

// exp, log1p, softcap and sech^2 on whole vectors. Include after common/simd.hpp, in files that fluxcore_simd_sources
// compiles.

#include <cmath>
#include <numbers>

#include "common/simd.hpp"

namespace fluxcore::FLUXCORE_ISA {

// Adding this to a number below 2^22 (2^51) leaves its nearest integer in the low bits.
template <class C>
inline constexpr C kRoundMagic = sizeof(C) == 4 ? static_cast<C>(0x1.8p23) : static_cast<C>(0x1.8p52);

// e^z = power (1 + growth), for z as of Exp: growth is e^r - 1 to all its digits, |r| <= ln 2 / 2, and power is a power
// of two or 0. So 1 - e^z, which is (1 - power) - power growth, has all its digits too.
template <class C>
struct ExpParts {
  Vec<C> power;
  Vec<C> growth;
};

inline ExpParts<float> exp_parts(Vec<float> z, Vec<float>& clamped) {
  clamped = max_or_second<float>(splat(-88.0296919F), z);  // -127 ln 2
  const Vec<float> shifted = clamped * std::numbers::log2e_v<float> + kRoundMagic<float>;
  const Vec<float> n = shifted - kRoundMagic<float>;
  // ln 2 in two parts, of which n times the first is exact.
  // NOLINTNEXTLINE(modernize-use-std-numbers)
  const Vec<float> r = (clamped - n * 0x1.63p-1F) + n * 2.12194440e-4F;
  const Vec<float> tail = 0.166665201F + r * (0.0416683943F + r * (0.00836878062F + r * 0.00138144648F));
  const auto power = (bits_as<Vec<std::int32_t>>(shifted) << 23) + 0x3f800000;
  return {.power = bits_as<Vec<float>>(power), .growth = r * (1.0F + r * (0.499999934F + r * tail))};
}

inline ExpParts<double> exp_parts(Vec<double> z, Vec<double>& clamped) {
  constexpr double kInverseFactorials[14] = {
      1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
      1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
  clamped = max_or_second<double>(splat(-709.089565712824), z);  // -1023 ln 2
  const Vec<double> shifted = clamped * std::numbers::log2e + kRoundMagic<double>;
  const Vec<double> n = shifted - kRoundMagic<double>;
  // NOLINTNEXTLINE(modernize-use-std-numbers): the first of two parts, as above
  const Vec<double> r = (clamped - n * 0x1.62e4p-1) - n * 1.42860682030941723212e-6;
  Vec<double> p = splat(kInverseFactorials[13]);
  for (int i = 12; i >= 1; --i) p = kInverseFactorials[i] + r * p;
  const auto power = (bits_as<Vec<std::int64_t>>(shifted) << 52) + 0x3ff0000000000000;
  return {.power = bits_as<Vec<double>>(power), .growth = r * p};
}

// e^z for z <= 0; exactly 1 at 0, exactly 0 from -88 (float) or -709 (double) down to -inf; NaN stays.
// `clamped` receives max(z, that bound), which is finite where z is not NaN, so that products with the result are 0,
// not NaN. Within 1 ulp without a table; with one, within 2 ulp of float down to z = -8, 3 down to -20 and 6 at the
// bound, a tenth of what the rounding of such a z costs. No result is subnormal but for z within 0.7 of the bound.
template <class C>
class Exp;

#if defined(__AVX512F__)
// bits(2^(j/32)) - (j << 18): adding (k << 18) to entry k mod 32 gives the bits of 2^(k/32).
alignas(64) inline constexpr std::int32_t kExp2Table[32] = {
    0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
    0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
    0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
    0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3};

// 2^(j/32) from a table held in two registers, then a quadratic: three products fewer than a polynomial alone.
template <>
class Exp<float> {
 public:
  Vec<float> operator()(Vec<float> z, Vec<float>& clamped) const {
    clamped = max_or_second<float>(splat(-88.0296919F), z);                       // -127 ln 2
    const Vec<float> shifted = clamped * 46.1662413F + kRoundMagic<float>;        // 32 / ln 2
    const Vec<float> r = clamped - (shifted - kRoundMagic<float>)*0.0216608494F;  // ln 2 / 32, within 2e-11 of it
    const auto k = bits_as<__m512i>(shifted);
    const __m512i entry = _mm512_permutex2var_epi32(low_, k, high_);
    const auto scale = bits_as<Vec<float>>(_mm512_add_epi32(entry, _mm512_slli_epi32(k, 18)));
    return scale + scale * (r * (1.00001495F + r * 0.500001153F));
  }

 private:
  __m512i low_ = _mm512_load_si512(kExp2Table);
  __m512i high_ = _mm512_load_si512(kExp2Table + 16);
};
#elif defined(__AVX2__)
// bits(2^(j/8)) - (j << 20): adding (k << 20) to entry k mod 8 gives the bits of 2^(k/8).
alignas(32) inline constexpr std::int32_t kExp2Table[8] = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7,
                                                           0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};

// 2^(j/8) from a table held in a register, then a cubic: three products fewer than a polynomial alone.
template <>
class Exp<float> {
 public:
  Vec<float> operator()(Vec<float> z, Vec<float>& clamped) const {
    clamped = max_or_second<float>(splat(-88.0296919F), z);                       // -127 ln 2
    const Vec<float> shifted = clamped * 11.5415603F + kRoundMagic<float>;        // 8 / ln 2
    const Vec<float> r = clamped - (shifted - kRoundMagic<float>)*0.0866433976F;  // ln 2 / 8, within 3e-10 of it
    const auto k = bits_as<__m256i>(shifted);
    const __m256i entry = _mm256_permutevar8x32_epi32(table_, k);
    const auto scale = bits_as<Vec<float>>(_mm256_add_epi32(entry, _mm256_slli_epi32(k, 20)));
    return scale + scale * (r + r * r * (0.500064472F + r * 0.166668584F));
  }

 private:
  __m256i table_ = _mm256_load_si256(reinterpret_cast<const __m256i*>(kExp2Table));
};
#else
template <>
class Exp<float> {
 public:
  Vec<float> operator()(Vec<float> z, Vec<float>& clamped) const {
    const ExpParts<float> parts = exp_parts(z, clamped);
    return (1.0F + parts.growth) * parts.power;
  }
};
#endif

template <>
class Exp<double> {
 public:
  Vec<double> operator()(Vec<double> z, Vec<double>& clamped) const {
    const ExpParts<double> parts = exp_parts(z, clamped);
    return (1.0 + parts.growth) * parts.power;
  }
};

// log(1 + a) for a >= 0, within 2 ulp: log(1 + a) = k ln 2 + 2 artanh(f / (2 + f)), where 1 + a = 2^k (1 + f).
inline Vec<float> log1p(Vec<float> a) {
  // Where the 1 is lost anyway, 2^64 is taken out so that 2^-k stays a normal number.
  const auto large = a > 0x1p64F;
  const Vec<float> sum = large ? a * 0x1p-64F : 1.0F + a;
  const Vec<float> rounded_off = a < 1.0F ? a - (sum - 1.0F) : 1.0F - (sum - a);
  // The bits of sqrt(1/2), below which the exponent of 1 + f would be one less.
  constexpr std::int32_t kRootHalf = 0x3f3504f3;
  const Vec<std::int32_t> k = (bits_as<Vec<std::int32_t>>(sum) - kRootHalf) >> 23;
  const auto power = bits_as<Vec<float>>((127 - k) << 23);
  const Vec<float> f = (sum * power - 1.0F) + (large ? Vec<float>{} : rounded_off * power);
  const Vec<float> s = f / (2.0F + f);
  const Vec<float> y = s * s;
  const Vec<float> tail = y * (1.0F / 3 + y * (1.0F / 5 + y * (1.0F / 7 + y * (1.0F / 9))));
  const Vec<float> exponent = __builtin_convertvector(k, Vec<float>) + (large ? splat(64.0F) : Vec<float>{});
  // NOLINTNEXTLINE(modernize-use-std-numbers): ln 2 in two parts, as above
  const Vec<float> log = exponent * 0x1.63p-1F + (2.0F * s + (2.0F * (s * tail) - exponent * 2.12194440e-4F));
  return a < HUGE_VALF ? log : a;
}

// Lane by lane in the C library, as softcap below.
inline Vec<double> log1p(Vec<double> a) {
  Vec<double> y;
  for (int lane = 0; lane < kLanes<double>; ++lane) y[lane] = std::log1p(a[lane]);
  return y;
}

// cap * tanh(x / cap) within 1 ulp: near 0 as x plus a small term, far from it as cap minus one.
inline Vec<float> softcap(Vec<float> x, float cap) {
  const Vec<float> a = max_or_second<float>(-x, x) / cap;
  const Vec<float> y = a * a;
  const Vec<float> tail = -0.0537838314F + y * (0.0207959751F + y * -0.0058951618F);
  const Vec<float> near = x + x * (y * (-0.33333298F + y * (0.133319241F + y * tail)));
  Vec<float> clamped;
  const Vec<float> u = Exp<float>()(-2.0F * a, clamped);
  const Vec<float> far = cap - cap * (2.0F * u / (1.0F + u));
  const Vec<float> signed_far = x < 0.0F ? -far : far;
  return a < 0.6F ? near : signed_far;
}

// Lane by lane in the C library: double logits are for checking, not for speed.
inline Vec<double> softcap(Vec<double> x, double cap) {
  Vec<double> y;
  for (int lane = 0; lane < kLanes<double>; ++lane) y[lane] = cap * std::tanh(x[lane] / cap);
  return y;
}

// 1 / cosh^2, the derivative of tanh, accurate where tanh rounds to 1.
template <class C>
inline Vec<C> sech_squared(Vec<C> x) {
  Vec<C> clamped;
  const Vec<C> u = Exp<C>()(static_cast<C>(-2) * max_or_second<C>(-x, x), clamped);
  return static_cast<C>(4) * u / ((static_cast<C>(1) + u) * (static_cast<C>(1) + u));
}

}  // namespace fluxcore::FLUXCORE_ISA
