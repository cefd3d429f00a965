#pragma once

// StableMax: the distribution proportional to sigma(x) = x + 1 for x >= 0, 1 / (1 - x) below. With a = 1 + |x| it is
// a or 1 / a, its logarithm is log1p(|x|) or minus that, and sigma' / sigma = 1 / a on both sides: no exp.
// Part of cross_entropy_kernels.simd.cpp.

#include <cmath>

#include "common/simd.hpp"
#include "common/simd_math.hpp"
#include "ops/class_shares.hpp"
#include "ops/cross_entropy_kernels.hpp"

namespace fluxcore::FLUXCORE_ISA {

template <class C>
inline Vec<C> magnitude(Vec<C> x) {
  return max_or_second<C>(-x, x);
}

template <class C>
inline Vec<C> stablemax_weight(Vec<C> x) {
  const Vec<C> a = C{1} + magnitude<C>(x);
  return x >= C{} ? a : C{1} / a;
}

template <class C>
inline Vec<C> stablemax_log_weight(Vec<C> x) {
  const Vec<C> log = log1p(magnitude<C>(x));
  return x >= C{} ? log : -log;
}

template <class T, bool WithSums, bool Weighted, bool Probable>
StableMaxScan stablemax_scan_of(const T* x, std::int64_t classes, std::int64_t kept_out,
                                const ClassShares& class_shares) {
  using C = ComputeType<T>;
  const Shares<T, Weighted, Probable> shares(class_shares);
  StableMaxScan scan;
  for_each_stretch<C>(classes, kept_out, [&](std::int64_t begin, std::int64_t end) {
    Vec<C> others = {};
    Vec<C> mass = {};
    Vec<C> moment = {};
    for_each_vector<C>(begin, end, [&](std::int64_t i, auto lanes) {
      const Vec<C> logit = load_lanes(x + i, lanes);
      others += cut_lanes<C>(stablemax_weight<C>(logit), lanes);
      if constexpr (WithSums) {
        const Vec<C> c = shares.at(i, lanes);
        mass += c;
        moment += share_of<C>(c, stablemax_log_weight<C>(logit));
      }
    });
    scan.others += lane_sum(others);
    scan.sums.mass += lane_sum(mass);
    scan.sums.moment += lane_sum(moment);
  });
  return scan;
}

template <class T>
StableMaxScan stablemax_scan(const void* row, std::int64_t classes, std::int64_t kept_out, bool with_sums,
                             const ClassShares& shares) {
  const T* x = static_cast<const T*>(row);
  if (!with_sums) return stablemax_scan_of<T, false, false, false>(x, classes, kept_out, shares);
  return with_kind_of_shares(shares, [&](auto weighted, auto probable) {
    return stablemax_scan_of<T, true, decltype(weighted)::value, decltype(probable)::value>(x, classes, kept_out,
                                                                                            shares);
  });
}

template <class T>
void stablemax_sweep(const void* row, void* out, std::int64_t classes, const ClassShares& class_shares, double a,
                     double factor) {
  using C = ComputeType<T>;
  const T* x = static_cast<const T*>(row);
  T* gradient = static_cast<T*>(out);
  const C of_weight = static_cast<C>(a);
  const C of_share = static_cast<C>(factor);
  with_kind_of_shares(class_shares, [&](auto weighted, auto probable) {
    const Shares<T, decltype(weighted)::value, decltype(probable)::value> shares(class_shares);
    for_each_vector<C>(0, classes, [&](std::int64_t i, auto lanes) {
      const Vec<C> logit = load_lanes(x + i, lanes);
      const Vec<C> one_plus = C{1} + magnitude<C>(logit);
      const Vec<C> inverse = C{1} / one_plus;
      const Vec<C> sigma = logit >= C{} ? one_plus : inverse;
      const Vec<C> g = inverse * (of_weight * sigma - of_share * shares.at(i, lanes));
      store_lanes<C>(logit == static_cast<C>(-HUGE_VAL) ? Vec<C>{} : g, gradient + i, lanes);
    });
  });
}

}  // namespace fluxcore::FLUXCORE_ISA
