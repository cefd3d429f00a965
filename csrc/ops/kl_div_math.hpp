#pragma once

// Functions of log-ratios that do not cancel near 0. Part of kl_div_kernels.simd.cpp.

#include <cmath>

#include "common/simd.hpp"
#include "common/simd_math.hpp"
#include "ops/softmax_scan.hpp"

namespace fluxcore::FLUXCORE_ISA {

// Below this a power series stands in for differences of numbers of order 1.
template <class C>
inline constexpr C kNear = static_cast<C>(0.3);
template <class C>
inline constexpr int kSeriesTerms = sizeof(C) == 4 ? 7 : 13;

// 2 (-1)^k / (k+2)!, k = 0, 1, ...
template <class C>
struct ExcessSeries {
  C coefficient[kSeriesTerms<C>];
  constexpr ExcessSeries() : coefficient() {
    double value = 1.0;
    for (int k = 0; k < kSeriesTerms<C>; ++k) {
      coefficient[k] = static_cast<C>(value);
      value /= -static_cast<double>(k + 3);
    }
  }
};
template <class C>
inline constexpr ExcessSeries<C> kExcessSeries;

// u + e^-u - 1 for |u| < kNear.
template <class C>
inline Vec<C> near_excess(Vec<C> u) {
  constexpr int kLast = kSeriesTerms<C> - 1;
  Vec<C> series = splat(kExcessSeries<C>.coefficient[kLast]);
  for (int k = kLast - 1; k >= 0; --k) series = kExcessSeries<C>.coefficient[k] + u * series;
  return static_cast<C>(0.5) * u * u * series;
}

inline double excess(double u) {
  if (!(std::fabs(u) < kNear<double>)) return u + std::expm1(-u);
  double series = 0.0;
  for (int k = kSeriesTerms<double> - 1; k >= 0; --k) series = kExcessSeries<double>.coefficient[k] + u * series;
  return 0.5 * u * u * series;
}

// log(1 + e^d).
inline double softplus(double d) { return d > 0.0 ? d + std::log1p(std::exp(-d)) : std::log1p(std::exp(d)); }

template <class C>
inline Vec<C> magnitude(Vec<C> u) {
  return max_or_second<C>(-u, u);
}

// The lesser of two things that differ by a factor e^|u|, as a share of the greater.
template <class C>
struct Gap {
  Vec<C> size;      // |u|
  Vec<C> exponent;  // -|u|, cut where its exponential is 0
  Vec<C> lesser;    // e^-|u|
  Vec<C> missing;   // 1 - e^-|u|

  explicit Gap(Vec<C> u) : size(magnitude<C>(u)) {
    const ExpParts<C> parts = exp_parts(-size, exponent);
    lesser = (static_cast<C>(1) + parts.growth) * parts.power;
    missing = (static_cast<C>(1) - parts.power) - parts.power * parts.growth;
  }
};

// The greater of p and r, which has a share `own` in a mixture M, against M; `other` = 1 - own is that of the lesser.
template <class C>
struct GreaterInMixture {
  Vec<C> log;     // log(greater / M) >= 0
  Vec<C> excess;  // log(greater / M) + M / greater - 1 >= 0
};

inline GreaterInMixture<double> greater_in_mixture(const Gap<double>& gap, Vec<double> own, Vec<double> other) {
  const Vec<double> away = other * gap.missing;
  const Vec<double> log = log1p(away / (own + other * gap.lesser));
  return {.log = log, .excess = gap.size < kNear<double> ? near_excess<double>(log) : log - away};
}

// -log(M / greater) = k ln 2 + 2 artanh(s), where M / greater = 2^-k (1 - s) / (1 + s). For k = 0 what artanh(s) has
// beyond s, and 1 - M / greater = 2 s / (1 + s), give the excess without a difference.
inline GreaterInMixture<float> greater_in_mixture(const Gap<float>& gap, Vec<float> own, Vec<float> other) {
  constexpr std::int32_t kRootHalf = 0x3f3504f3;  // the bits of sqrt(1/2)
  const Vec<float> away = other * gap.missing;
  const Vec<float> mixture = own + other * gap.lesser;
  const Vec<std::int32_t> minus_k = (bits_as<Vec<std::int32_t>>(mixture) - kRootHalf) >> 23;
  const Vec<float> near_one = mixture * bits_as<Vec<float>>((127 - minus_k) << 23);
  const auto is_one = minus_k == 0;
  const Vec<float> s = (is_one ? away : 1.0F - near_one) / (1.0F + near_one);
  const Vec<float> y = s * s;
  const Vec<float> tail = y * (1.0F / 3 + y * (1.0F / 5 + y * (1.0F / 7 + y * (1.0F / 9))));
  const Vec<float> doubled = 2.0F * s;
  const Vec<float> n = __builtin_convertvector(minus_k, Vec<float>);
  // NOLINTNEXTLINE(modernize-use-std-numbers): ln 2 in two parts
  const Vec<float> log = (doubled + (doubled * tail + n * 2.12194440e-4F)) - n * 0x1.63p-1F;
  return {.log = log, .excess = is_one ? doubled * tail + s * away : log - away};
}

// (v - centre) / temperature for a centre that C need not hold.
template <class C, bool Scaled>
class Centred {
 public:
  Centred(double centre, double temperature)
      : temperature_(LogitTransform{.temperature = temperature}),
        high_(static_cast<C>(centre)),
        low_(static_cast<C>((centre - static_cast<double>(high_)) / temperature)) {}

  [[nodiscard]] Vec<C> operator()(Vec<C> v) const {
    const Vec<C> difference = v - high_;
    return (Scaled ? temperature_.divide(difference) : difference) - low_;
  }
  [[nodiscard]] C centre() const { return high_; }

 private:
  Temperature<C> temperature_;
  C high_;
  C low_;
};

// (x - v) / temperature, finite for finite logits.
template <class C, bool Scaled, class V>
inline V delta_of(V x, V v, C temperature) {
  V delta = x - v;
  if constexpr (Scaled) {
    constexpr C kHuge = sizeof(C) == 4 ? static_cast<C>(1e38) : static_cast<C>(1e307);
    delta = delta / temperature;
    delta = delta > kHuge ? V{} + kHuge : delta;
    delta = delta < -kHuge ? V{} - kHuge : delta;
  }
  return delta;
}

// log(p/r): from the logits' difference where p and r nearly agree, elsewhere with the smaller roundings of log p and
// log r.
template <class C>
inline Vec<C> log_ratio(Vec<C> by_difference, Vec<C> log_p, Vec<C> log_r) {
  return magnitude<C>(by_difference) < kNear<C> ? by_difference : log_p - log_r;
}

// log(p/M) for M = beta p + (1 - beta) r and l = log(p/r).
template <class C>
class MixtureRatio {
 public:
  explicit MixtureRatio(double beta) : beta_(static_cast<C>(beta)), rest_(static_cast<C>(1.0 - beta)) {}

  [[nodiscard]] Vec<C> operator()(Vec<C> l) const {
    const Gap<C> gap(l);
    const auto below = l < C{};
    const Vec<C> by_greater =
        greater_in_mixture(gap, below ? splat(rest_) : splat(beta_), below ? splat(beta_) : splat(rest_)).log;
    return below ? by_greater + gap.exponent : by_greater;
  }

 private:
  C beta_;
  C rest_;
};

}  // namespace fluxcore::FLUXCORE_ISA
