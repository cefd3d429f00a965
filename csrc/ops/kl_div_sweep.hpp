#pragma once

// The gradient of a row by the policy's logits: one read of both rows and one write. Part of kl_div_kernels.simd.cpp.

#include "ops/kl_div_kernels.hpp"
#include "ops/kl_div_math.hpp"

namespace fluxcore::FLUXCORE_ISA {

// p (delta - pivot - centre)
template <class C, bool Scaled>
class PolicyRefGradient {
 public:
  PolicyRefGradient(double temperature, const PairSweep& sweep)
      : log_p_(sweep.lse * temperature, temperature),
        temperature_(static_cast<C>(temperature)),
        pivot_(static_cast<C>(sweep.pivot)),
        centre_(static_cast<C>(sweep.centre)),
        scale_(static_cast<C>(sweep.scale)) {}

  [[nodiscard]] Vec<C> operator()(Vec<C> x, Vec<C> v) const {
    Vec<C> exponent;
    const Vec<C> p = exp_(log_p_(x), exponent);
    return scale_ * p * ((delta_of<C, Scaled>(x, v, temperature_) - pivot_) - centre_);
  }

 private:
  Exp<C> exp_;
  Centred<C, Scaled> log_p_;
  C temperature_;
  C pivot_;
  C centre_;
  C scale_;
};

// p - r, which near p = r is p (1 - e^-l) or -r (1 - e^l) for l = log(p/r)
template <class C, bool Scaled>
class RefPolicyGradient {
 public:
  RefPolicyGradient(double temperature, const PairSweep& sweep)
      : log_p_(sweep.lse * temperature, temperature),
        log_r_(ref_lse(sweep.lse, sweep.pivot, sweep.shift) * temperature, temperature),
        temperature_(static_cast<C>(temperature)),
        pivot_(static_cast<C>(sweep.pivot)),
        shift_(static_cast<C>(sweep.shift)),
        scale_(static_cast<C>(sweep.scale)) {}

  [[nodiscard]] Vec<C> operator()(Vec<C> x, Vec<C> v) const {
    const Vec<C> l = (delta_of<C, Scaled>(x, v, temperature_) - pivot_) - shift_;
    Vec<C> exponent;
    const Vec<C> p = exp_(log_p_(x), exponent);
    const Vec<C> r = exp_(log_r_(v), exponent);
    const Vec<C> size = magnitude<C>(l);
    const Vec<C> missing = size - near_excess<C>(size);
    const Vec<C> near = l < C{} ? -r * missing : p * missing;
    return scale_ * (size < kNear<C> ? near : p - r);
  }

 private:
  Exp<C> exp_;
  Centred<C, Scaled> log_p_;
  Centred<C, Scaled> log_r_;
  C temperature_;
  C pivot_;
  C shift_;
  C scale_;
};

// p (log(p/M) - centre)
template <class C, bool Scaled>
class MixtureGradient {
 public:
  MixtureGradient(double temperature, const PairSweep& sweep)
      : log_p_(sweep.lse * temperature, temperature),
        log_r_(ref_lse(sweep.lse, sweep.pivot, sweep.shift) * temperature, temperature),
        ratio_(sweep.beta),
        temperature_(static_cast<C>(temperature)),
        pivot_(static_cast<C>(sweep.pivot)),
        shift_(static_cast<C>(sweep.shift)),
        centre_(static_cast<C>(sweep.centre)),
        scale_(static_cast<C>(sweep.scale)) {}

  [[nodiscard]] Vec<C> operator()(Vec<C> x, Vec<C> v) const {
    const Vec<C> log_p = log_p_(x);
    const Vec<C> l = log_ratio<C>((delta_of<C, Scaled>(x, v, temperature_) - pivot_) - shift_, log_p, log_r_(v));
    Vec<C> exponent;
    const Vec<C> p = exp_(log_p, exponent);
    return scale_ * p * (ratio_(l) - centre_);
  }

 private:
  Exp<C> exp_;
  Centred<C, Scaled> log_p_;
  Centred<C, Scaled> log_r_;
  MixtureRatio<C> ratio_;
  C temperature_;
  C pivot_;
  C shift_;
  C centre_;
  C scale_;
};

template <class T, class Rule>
void sweep_pairs(const T* x, const T* v, T* gradient, std::int64_t classes, const Rule& rule) {
  using C = ComputeType<T>;
  // -inf has no gradient, also where the rule has 0 times inf.
  const auto at = [&rule](Vec<C> first, Vec<C> second) {
    return first == static_cast<C>(-HUGE_VAL) ? Vec<C>{} : rule(first, second);
  };
  std::int64_t i = 0;
  for (; i + kGroup<C> <= classes; i += kGroup<C>) {
    Both<C> both = load_both(x + i);
    const Both<C> second = load_both(v + i);
    for (int k = 0; k < 2; ++k) both.part[k] = at(both.part[k], second.part[k]);
    store_both(both, gradient + i);
  }
  for (; i + kLanes<C> <= classes; i += kLanes<C>) store(at(load(x + i), load(v + i)), gradient + i);
  if (i == classes) return;
  T first[kLanes<C>] = {};
  T second[kLanes<C>] = {};
  for (std::int64_t j = i; j < classes; ++j) {
    first[j - i] = x[j];
    second[j - i] = v[j];
  }
  store(at(load(first), load(second)), first);
  for (std::int64_t j = i; j < classes; ++j) gradient[j] = first[j - i];
}

}  // namespace fluxcore::FLUXCORE_ISA
