#pragma once

// The second pass for the Jensen-Shannon divergence, whose mixture needs both sums: the rows come from a cache. Part of
// kl_div_kernels.simd.cpp.

#include "ops/kl_div_scan.hpp"

namespace fluxcore::FLUXCORE_ISA {

template <class T, bool Scaled>
class MixtureSummer {
 public:
  using C = ComputeType<T>;

  MixtureSummer(double temperature, const PairScan& scan, const Mixture& mixture)
      : temperature_(temperature),
        log_p_(scan.lse * temperature, temperature),
        log_r_(ref_lse(scan.lse, scan.pivot, scan.shift) * temperature, temperature),
        pivot_(static_cast<C>(scan.pivot)),
        shift_(static_cast<C>(scan.shift)),
        beta_(static_cast<C>(mixture.beta)),
        rest_(static_cast<C>(1.0 - mixture.beta)) {}

  void run(const T* x, const T* v, std::int64_t classes, Mixture& mixture) const {
    std::int64_t n = 0;
    for (std::int64_t begin = 0; begin < classes; begin += n) {
      n = block_length(x, begin, classes);
      const PairBlock<T> block = {.x = x + begin, .v = v + begin, .n = n};
      if (n % kGroup<C> != 0 || extremes<C>(block).gone) {
        add_scratch(block, mixture);
      } else {
        add(block, mixture);
      }
    }
  }

 private:
  void add_scratch(const PairBlock<T>& source, Mixture& mixture) const {
    alignas(64) C first[kBlock];
    alignas(64) C second[kBlock];
    const std::int64_t padded = copy_padded(source.x, source.n, first);
    copy_padded(source.v, source.n, second);
    const PairBlock<C> block = {.x = first, .v = second, .n = padded};
    replace_gone(first, padded, log_p_.centre(), temperature_);
    replace_gone(second, padded, log_r_.centre(), temperature_);
    add(block, mixture);
  }

  // p log(p/M) + M - p and its like for r are never negative; near 0, where they cancel, they are p f(log(p/M)).
  template <class Src>
  void add(const PairBlock<Src>& block, Mixture& mixture) const {
    const Exp<C> exp;
    const auto terms = [&](Vec<C> x, Vec<C> v, Vec<C>& divergences, Vec<C>& masses, Vec<C>& moments) {
      const Vec<C> log_p = log_p_(x);
      const Vec<C> log_r = log_r_(v);
      const Vec<C> l =
          log_ratio<C>((delta_of<C, Scaled>(x, v, static_cast<C>(temperature_)) - pivot_) - shift_, log_p, log_r);
      const auto below = l < C{};
      Vec<C> exponent;
      const Vec<C> greater = exp(below ? log_r : log_p, exponent);
      const Gap<C> gap(l);
      const Vec<C> own = below ? splat(rest_) : splat(beta_);
      const Vec<C> other = below ? splat(beta_) : splat(rest_);
      const auto [by_greater, of_greater] = greater_in_mixture(gap, own, other);
      const Vec<C> by_lesser = by_greater + gap.exponent;
      const Vec<C> of_lesser =
          gap.size < kNear<C> ? gap.lesser * near_excess<C>(by_lesser) : gap.lesser * by_lesser + own * gap.missing;
      divergences += greater * (own * of_greater + other * of_lesser);
      const Vec<C> p = below ? greater * gap.lesser : greater;
      masses += p;
      moments += p * (below ? by_lesser : by_greater);
    };
    const PairSums<C> sums = pair_sums<C>(block, terms);
    mixture.divergence += sums.total(0);
    mixture.mass += sums.total(1);
    mixture.moment += sums.total(2);
  }

  double temperature_;
  Centred<C, Scaled> log_p_;
  Centred<C, Scaled> log_r_;
  C pivot_;
  C shift_;
  C beta_;
  C rest_;
};

}  // namespace fluxcore::FLUXCORE_ISA
