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

  Gap(Vec<C> u, const Exp<C>& exp) : size(magnitude<C>(u)) {
    lesser = exp(-size, exponent);
    missing = size < kNear<C> ? size - near_excess<C>(size) : static_cast<C>(1) - lesser;
  }
};

// log of the greater of p and r, of which it has a share `own` in a mixture, over the mixture; `other` is 1 - own.
template <class C>
inline Vec<C> greater_over_mixture(const Gap<C>& gap, Vec<C> own, Vec<C> other) {
  return log1p(other * gap.missing / (own + other * gap.lesser));
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

  [[nodiscard]] Vec<C> operator()(Vec<C> l, const Exp<C>& exp) const {
    const Gap<C> gap(l, exp);
    const auto below = l < C{};
    const Vec<C> by_greater =
        greater_over_mixture<C>(gap, below ? splat(rest_) : splat(beta_), below ? splat(beta_) : splat(rest_));
    return below ? by_greater + gap.exponent : by_greater;
  }

 private:
  C beta_;
  C rest_;
};

}  // namespace fluxcore::FLUXCORE_ISA
