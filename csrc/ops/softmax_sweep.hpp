#pragma once

// The gradient of a row of logits: one read, one exp and one write an element. Part of softmax_kernels.simd.cpp.

#include <cmath>

#include "common/simd.hpp"
#include "common/simd_math.hpp"
#include "ops/softmax_kernels.hpp"
#include "ops/softmax_scan.hpp"

namespace fluxcore::FLUXCORE_ISA {

template <class C>
class Gradient {
 public:
  Gradient(const LogitTransform& transform, const RowSweep& sweep)
      : cap_(static_cast<C>(transform.softcap)),
        temperature_(transform),
        largest_(static_cast<C>(sweep.largest)),
        a_(static_cast<C>(sweep.a)),
        b_(static_cast<C>(sweep.b)),
        c_(static_cast<C>(sweep.c)) {}

  template <bool Capped>
  [[nodiscard]] Vec<C> at(Vec<C> x) const {
    const Vec<C> capped = Capped ? softcap(x, cap_) : x;
    Vec<C> z = temperature_.divide(capped - largest_);
    const Vec<C> e = exp_(z, z);
    const Vec<C> g = e * (a_ + z * (b_ + z * c_));
    return Capped ? g * sech_squared<C>(x / cap_) : g;
  }

 private:
  Exp<C> exp_;
  C cap_;
  Temperature<C> temperature_;
  C largest_;
  C a_;
  C b_;
  C c_;
};

// Guarded: a logit of -inf has no gradient whatever the rule gives, be it 0 times inf. `gradient` may be x.
template <bool Capped, bool Guarded, class T, class C>
void sweep_elements(const T* x, T* gradient, std::int64_t classes, const Gradient<C>& rule) {
  const auto at = [&rule](Vec<C> logits) {
    const Vec<C> g = rule.template at<Capped>(logits);
    if constexpr (Guarded) {
      return logits == static_cast<C>(-HUGE_VAL) ? Vec<C>{} : g;
    } else {
      return g;
    }
  };
  std::int64_t i = 0;
  for (; i + kGroup<C> <= classes; i += kGroup<C>) {
    Both<C> both = load_both(x + i);
    for (auto& part : both.part) part = at(part);
    store_both(both, gradient + i);
  }
  for (; i + kLanes<C> <= classes; i += kLanes<C>) store(at(load(x + i)), gradient + i);
  if (i == classes) return;
  T rest[kLanes<C>] = {};
  for (std::int64_t j = i; j < classes; ++j) rest[j - i] = x[j];
  store(at(load(rest)), rest);
  for (std::int64_t j = i; j < classes; ++j) gradient[j] = rest[j - i];
}

template <class T>
void sweep_row(const void* row, void* out, std::int64_t classes, const LogitTransform& transform,
               const RowSweep& sweep) {
  using C = ComputeType<T>;
  const T* x = static_cast<const T*>(row);
  T* gradient = static_cast<T*>(out);
  const Gradient<C> rule(transform, sweep);
  const double sum = sweep.a + sweep.b + sweep.c + sweep.largest;
  const bool finite = sum - sum == 0.0;
  if (transform.softcap > 0) {
    finite ? sweep_elements<true, false>(x, gradient, classes, rule)
           : sweep_elements<true, true>(x, gradient, classes, rule);
  } else {
    finite ? sweep_elements<false, false>(x, gradient, classes, rule)
           : sweep_elements<false, true>(x, gradient, classes, rule);
  }
}

}  // namespace fluxcore::FLUXCORE_ISA
