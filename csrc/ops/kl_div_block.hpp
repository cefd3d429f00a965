#pragma once

// Sums over a block of two rows, in two forms. Part of kl_div_kernels.simd.cpp.
//
// The terms of sum p log(p/r) are of order |log(p/r)|, its value of order log(p/r)^2. So where the rows nearly agree
// it is summed as sum p f(delta - pivot) - f(shift) with f(u) = u + e^-u - 1 >= 0, which holds for any pivot and
// cancels only where that is many deviations of delta off. Where they do not, those terms are too large, and the plain
// form is right.

#include <cmath>

#include "common/simd.hpp"
#include "common/simd_math.hpp"
#include "ops/kl_div_math.hpp"
#include "ops/softmax_scan.hpp"

namespace fluxcore::FLUXCORE_ISA {

// Whole groups of both rows, without -inf, in place or in scratch.
template <class Src>
struct PairBlock {
  const Src* x;
  const Src* v;
  std::int64_t n;
};

// What a block's elements are measured from.
template <class C>
struct PairFrame {
  double temperature;
  C largest;      // x of the largest e = e^((x - largest) / T)
  C ref_largest;  // the same of the reference
  C pivot;
};

// A part of the classes, or all: as PairScan, for p and r within the part.
struct PairPart {
  double lse = 0.0;
  double pivot = 0.0;
  double shift = 0.0;
  double mean = 0.0;
  double divergence = 0.0;
};

// Sums of three kinds, each in two vectors, in chains that keep the rounding of equal terms from piling up.
template <class C>
class PairSums {
 public:
  static constexpr std::int64_t kChain = 16 * kGroup<C>;

  void add(const PairSums& chain) {
    for (int i = 0; i < 6; ++i) sum[i] += chain.sum[i];
  }
  [[nodiscard]] double total(int kind) const { return lane_sum(sum[kind] + sum[3 + kind]); }

  Vec<C> sum[6] = {};
};

// Adds up what `terms(x, v, a, b, c)` adds to its last three of each vector.
template <class C, class Src, class Terms>
PairSums<C> pair_sums(const PairBlock<Src>& block, const Terms& terms) {
  PairSums<C> all;
  for (std::int64_t begin = 0; begin < block.n; begin += PairSums<C>::kChain) {
    PairSums<C> chain;
    const std::int64_t end = begin + PairSums<C>::kChain < block.n ? begin + PairSums<C>::kChain : block.n;
    for (std::int64_t i = begin; i < end; i += kGroup<C>) {
      prefetch_group<C>(block.x + block.n + i);
      prefetch_group<C>(block.v + block.n + i);
      const Both<C> x = load_both(block.x + i);
      const Both<C> v = load_both(block.v + i);
      for (int k = 0; k < 2; ++k) {
        Vec<C>* sum = chain.sum + 3 * k;
        terms(x.part[k], v.part[k], sum[0], sum[1], sum[2]);
      }
    }
    all.add(chain);
  }
  return all;
}

// A part in the near form; false if that has lost digits.
template <class C, bool Scaled, class Src>
bool near_part(const PairBlock<Src>& block, const PairFrame<C>& frame, PairPart& part, double& mass) {
  const double T = frame.temperature;
  const Exp<C> exp;
  const Temperature<C> temperature(LogitTransform{.temperature = T});
  // r over sum r, times e^-shift: e^(delta - pivot) is taken from e to get it, which is therefore in its terms.
  const Centred<C, Scaled> ref_exponent(static_cast<double>(frame.largest) - T * static_cast<double>(frame.pivot), T);
  const C kTooLarge = 60;  // e^60 in one term: not near
  const auto terms = [&](Vec<C> x, Vec<C> v, Vec<C>& masses, Vec<C>& excesses, Vec<C>& means) {
    const Vec<C> difference = x - frame.largest;
    const Vec<C> z = Scaled ? temperature.divide(difference) : difference;
    const Vec<C> u = delta_of<C, Scaled>(x, v, static_cast<C>(T)) - frame.pivot;
    const Vec<C> w = ref_exponent(v);
    const Vec<C> bounded = w > kTooLarge ? splat(kTooLarge) : w;
    const auto below = u < -kNear<C>;
    Vec<C> exponent;
    const Vec<C> greater = exp(below ? bounded : z, exponent);
    const Vec<C> size = magnitude<C>(u);
    const Vec<C> lesser = exp(-size, exponent);
    const Vec<C> missing = static_cast<C>(1) - lesser;
    const Vec<C> far = below ? missing + exponent * lesser : u - missing;
    const Vec<C> e = below ? greater * lesser : greater;
    masses += e;
    excesses += greater * (size < kNear<C> ? near_excess<C>(u) : far);
    means += e * (below ? exponent : u);
  };
  const PairSums<C> sums = pair_sums<C>(block, terms);
  mass = sums.total(0);
  const double excess_mean = sums.total(1) / mass;
  part.mean = sums.total(2) / mass;
  part.lse = static_cast<double>(frame.largest) / T + std::log(mass);
  part.pivot = static_cast<double>(frame.pivot);
  part.shift = -std::log1p(excess_mean - part.mean);
  const double divergence = excess_mean - excess(part.shift);
  part.divergence = divergence > 0.0 ? divergence : 0.0;
  // Beyond a half, r's sum e^-shift - 1 + 1 is a small difference.
  return excess_mean <= 2.0 && excess_mean - part.mean >= -0.5 && divergence >= excess_mean / 8.0;
}

// A part in the plain form, which is right where the divergence is not small. `ref_mass` receives sum e^((v - largest
// v) / T).
template <class C, bool Scaled, class Src>
void plain_part(const PairBlock<Src>& block, const PairFrame<C>& frame, PairPart& part, double& mass,
                double& ref_mass) {
  const double T = frame.temperature;
  const Exp<C> exp;
  const Temperature<C> temperature(LogitTransform{.temperature = T});
  const auto terms = [&](Vec<C> x, Vec<C> v, Vec<C>& masses, Vec<C>& ref_masses, Vec<C>& means) {
    const Vec<C> difference = x - frame.largest;
    const Vec<C> ref_difference = v - frame.ref_largest;
    Vec<C> exponent;
    const Vec<C> e = exp(Scaled ? temperature.divide(difference) : difference, exponent);
    masses += e;
    ref_masses += exp(Scaled ? temperature.divide(ref_difference) : ref_difference, exponent);
    means += e * (delta_of<C, Scaled>(x, v, static_cast<C>(T)) - frame.pivot);
  };
  const PairSums<C> sums = pair_sums<C>(block, terms);
  mass = sums.total(0);
  ref_mass = sums.total(1);
  const auto largest = static_cast<double>(frame.largest);
  part.mean = sums.total(2) / mass;
  part.lse = largest / T + std::log(mass);
  part.pivot = static_cast<double>(frame.pivot);
  part.shift = (largest - static_cast<double>(frame.ref_largest)) / T - part.pivot + std::log(mass / ref_mass);
  const double divergence = part.mean - part.shift;
  part.divergence = divergence < 0.0 ? 0.0 : divergence;
}

// The whole of two parts, by the chain rule of the divergence: each part's own, and that of the parts' masses.
inline PairPart joined(const PairPart& a, const PairPart& b) {
  const PairPart& heavy = a.lse < b.lse ? b : a;
  const PairPart& light = a.lse < b.lse ? a : b;
  const double gap = heavy.lse - light.lse;
  const double ratio = std::exp(-gap);
  const double share = ratio / (1.0 + ratio);
  const double rest = 1.0 / (1.0 + ratio);
  // With L = lse of x less lse of v: of the heavy part less the light one's, then less that of both.
  const double difference = (heavy.pivot - light.pivot) + (heavy.shift - light.shift);
  const double fall =
      difference < 600.0 ? std::log1p(share * std::expm1(difference)) : softplus(difference - gap - std::log1p(ratio));
  PairPart both = {.lse = heavy.lse + std::log1p(ratio), .pivot = heavy.pivot, .shift = heavy.shift - fall};
  both.mean = rest * heavy.mean + share * (light.mean + (light.pivot - heavy.pivot));
  both.divergence = rest * (heavy.divergence + fall) + share * (light.divergence + (fall - difference));
  if (both.divergence > 1.0) return both;
  both.divergence = rest * (heavy.divergence + excess(fall)) + share * (light.divergence + excess(fall - difference));
  return both;
}

}  // namespace fluxcore::FLUXCORE_ISA
