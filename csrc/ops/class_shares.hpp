#pragma once

// Sums and gradients of a row with a share of the loss for each class: label smoothing, class weights, probabilities.
// Part of cross_entropy_kernels.simd.cpp.

#include <cmath>
#include <type_traits>

#include "common/simd.hpp"
#include "ops/cross_entropy_kernels.hpp"
#include "ops/softmax_sweep.hpp"

namespace fluxcore::FLUXCORE_ISA {

// Lanes of a vector that count: all of them, as a type so that the loops know, or the first n.
struct AllLanes {};
struct FirstLanes {
  std::int64_t n;
};

// Calls body(i, lanes) for vectors that cover [begin, end).
template <class C, class Body>
inline void for_each_vector(std::int64_t begin, std::int64_t end, const Body& body) {
  std::int64_t i = begin;
  for (; i + kLanes<C> <= end; i += kLanes<C>) body(i, AllLanes{});
  if (i < end) body(i, FirstLanes{end - i});
}

template <class S>
inline Vec<ComputeType<S>> load_lanes(const S* from, AllLanes) {
  return load(from);
}

template <class S>
inline Vec<ComputeType<S>> load_lanes(const S* from, FirstLanes lanes) {
  S some[kLanes<ComputeType<S>>] = {};
  for (std::int64_t i = 0; i < lanes.n; ++i) some[i] = from[i];
  return load(some);
}

template <class C, class S>
inline void store_lanes(Vec<C> v, S* to, AllLanes) {
  store(v, to);
}

template <class C, class S>
inline void store_lanes(Vec<C> v, S* to, FirstLanes lanes) {
  S some[kLanes<C>];
  store(v, some);
  for (std::int64_t i = 0; i < lanes.n; ++i) to[i] = some[i];
}

template <class C>
inline Vec<C> cut_lanes(Vec<C> v, AllLanes) {
  return v;
}

template <class C>
inline Vec<C> cut_lanes(Vec<C> v, FirstLanes lanes) {
  for (int lane = 0; lane < kLanes<C>; ++lane) v[lane] = lane < lanes.n ? v[lane] : C{};
  return v;
}

// The c_i of ClassShares; 0 in lanes that do not count.
template <class T, bool Weighted, bool Probable>
class Shares {
  using C = ComputeType<T>;

 public:
  explicit Shares(const ClassShares& shares)
      : weight_(static_cast<const C*>(shares.weight)),
        probabilities_(static_cast<const T*>(shares.probabilities)),
        share_(static_cast<C>(shares.share)),
        floor_(static_cast<C>(shares.floor)) {}

  template <class Lanes>
  [[nodiscard]] Vec<C> at(std::int64_t i, Lanes lanes) const {
    Vec<C> c = splat(C{1});
    if constexpr (Probable) c = share_ * load_lanes(probabilities_ + i, lanes) + floor_;
    if constexpr (Weighted) c *= load_lanes(weight_ + i, lanes);
    return cut_lanes<C>(c, lanes);
  }

 private:
  const C* weight_;
  const T* probabilities_;
  C share_;
  C floor_;
};

template <class C>
inline Vec<C> share_of(Vec<C> c, Vec<C> z) {
  return c == C{} ? Vec<C>{} : c * z;
}

// Calls body(begin, end) for stretches of [0, classes) without `kept_out`, short enough for sums in C.
template <class C, class Body>
inline void for_each_stretch(std::int64_t classes, std::int64_t kept_out, const Body& body) {
  constexpr std::int64_t kStretch = 64 * kLanes<C>;
  std::int64_t begin = 0;
  while (begin < classes) {
    std::int64_t end = begin + kStretch < classes ? begin + kStretch : classes;
    if (begin <= kept_out && kept_out < end) end = kept_out;
    body(begin, end);
    begin = end == kept_out ? end + 1 : end;
  }
}

template <class T, bool Weighted, bool Probable, bool Capped>
ShareSums share_sums_of(const T* x, std::int64_t classes, std::int64_t kept_out, const ClassShares& class_shares,
                        const LogitTransform& transform, double largest) {
  using C = ComputeType<T>;
  const Shares<T, Weighted, Probable> shares(class_shares);
  const C cap = static_cast<C>(transform.softcap);
  const C top = static_cast<C>(largest);
  ShareSums sums;
  for_each_stretch<C>(classes, kept_out, [&](std::int64_t begin, std::int64_t end) {
    Vec<C> mass = {};
    Vec<C> moment = {};
    for_each_vector<C>(begin, end, [&](std::int64_t i, auto lanes) {
      const Vec<C> logit = load_lanes(x + i, lanes);
      const Vec<C> c = shares.at(i, lanes);
      mass += c;
      moment += share_of<C>(c, (Capped ? softcap(logit, cap) : logit) - top);
    });
    sums.mass += lane_sum(mass);
    sums.moment += lane_sum(moment);
  });
  sums.moment /= transform.temperature;
  return sums;
}

template <class T, bool Weighted, bool Probable, bool Capped>
void share_sweep_of(const T* x, T* gradient, std::int64_t classes, const ClassShares& class_shares,
                    const LogitTransform& transform, const RowSweep& sweep, double factor) {
  using C = ComputeType<T>;
  const Shares<T, Weighted, Probable> shares(class_shares);
  const Gradient<C> rule(transform, sweep);
  const C cap = static_cast<C>(transform.softcap);
  const C scale = static_cast<C>(factor);
  for_each_vector<C>(0, classes, [&](std::int64_t i, auto lanes) {
    const Vec<C> logit = load_lanes(x + i, lanes);
    Vec<C> share = scale * shares.at(i, lanes);
    if constexpr (Capped) share *= sech_squared<C>(logit / cap);
    const Vec<C> g = rule.template at<Capped>(logit) - share;
    store_lanes<C>(logit == static_cast<C>(-HUGE_VAL) ? Vec<C>{} : g, gradient + i, lanes);
  });
}

// Calls body(weighted, probable) with the two as types.
template <class Body>
inline auto with_kind_of_shares(const ClassShares& shares, const Body& body) {
  if (shares.weight != nullptr) {
    return shares.probabilities != nullptr ? body(std::true_type{}, std::true_type{})
                                           : body(std::true_type{}, std::false_type{});
  }
  return shares.probabilities != nullptr ? body(std::false_type{}, std::true_type{})
                                         : body(std::false_type{}, std::false_type{});
}

template <class T>
ShareSums share_sums(const void* row, std::int64_t classes, std::int64_t kept_out, const ClassShares& shares,
                     const LogitTransform& transform, double largest) {
  const T* x = static_cast<const T*>(row);
  return with_kind_of_shares(shares, [&](auto weighted, auto probable) {
    constexpr bool kWeighted = decltype(weighted)::value;
    constexpr bool kProbable = decltype(probable)::value;
    return transform.softcap > 0
               ? share_sums_of<T, kWeighted, kProbable, true>(x, classes, kept_out, shares, transform, largest)
               : share_sums_of<T, kWeighted, kProbable, false>(x, classes, kept_out, shares, transform, largest);
  });
}

template <class T>
void share_sweep(const void* row, void* out, std::int64_t classes, const ClassShares& shares,
                 const LogitTransform& transform, const RowSweep& sweep, double factor) {
  const T* x = static_cast<const T*>(row);
  T* gradient = static_cast<T*>(out);
  with_kind_of_shares(shares, [&](auto weighted, auto probable) {
    constexpr bool kWeighted = decltype(weighted)::value;
    constexpr bool kProbable = decltype(probable)::value;
    if (transform.softcap > 0) {
      share_sweep_of<T, kWeighted, kProbable, true>(x, gradient, classes, shares, transform, sweep, factor);
    } else {
      share_sweep_of<T, kWeighted, kProbable, false>(x, gradient, classes, shares, transform, sweep, factor);
    }
  });
}

}  // namespace fluxcore::FLUXCORE_ISA
