#pragma once

// One pass over two rows of logits: KL(p || r) and the sums of both. Part of kl_div_kernels.simd.cpp.
//
// Blocks that fit in L1 are read twice, first for their largest elements; each block becomes a part, and parts are
// joined. A block starts from the pivot and the form of the one before, and is summed again if those do not suit it.

#include <cmath>
#include <limits>

#include "ops/kl_div_block.hpp"
#include "ops/kl_div_kernels.hpp"

namespace fluxcore::FLUXCORE_ISA {

inline constexpr double kGone = -HUGE_VAL;

inline double log_sum(double a, double b) {
  if (a == kGone) return b;
  if (b == kGone) return a;
  return a + softplus(b - a);
}

template <class C>
struct PairExtremes {
  C largest;
  C ref_largest;
  bool gone;  // -inf in either
};

// NaN does not count.
template <class C, class Src>
PairExtremes<C> extremes(const PairBlock<Src>& block) {
  Vec<C> top[4];
  Vec<C> bottom[2];
  for (auto& lanes : top) lanes = splat(static_cast<C>(-HUGE_VAL));
  for (auto& lanes : bottom) lanes = splat(static_cast<C>(-HUGE_VAL));  // of the negative
  for (std::int64_t i = 0; i < block.n; i += kGroup<C>) {
    const Both<C> xs = load_both(block.x + i);
    const Both<C> vs = load_both(block.v + i);
    for (int k = 0; k < 2; ++k) {
      const Vec<C> x = xs.part[k];
      const Vec<C> v = vs.part[k];
      top[k] = max_or_second<C>(x, top[k]);
      top[2 + k] = max_or_second<C>(v, top[2 + k]);
      bottom[0] = max_or_second<C>(-x, bottom[0]);
      bottom[1] = max_or_second<C>(-v, bottom[1]);
    }
  }
  const C deepest = lane_max<C>(max_or_second<C>(bottom[0], bottom[1]));
  return {.largest = lane_max<C>(max_or_second<C>(top[0], top[1])),
          .ref_largest = lane_max<C>(max_or_second<C>(top[2], top[3])),
          .gone = deepest == static_cast<C>(HUGE_VAL)};
}

// to[0, n) = x, then -inf up to a whole group.
template <class T, class C>
std::int64_t copy_padded(const T* x, std::int64_t n, C* to) {
  const std::int64_t padded = (n + kGroup<C> - 1) / kGroup<C> * kGroup<C>;
  for (std::int64_t i = 0; i < padded; ++i) to[i] = i < n ? to_compute(x[i]) : static_cast<C>(-HUGE_VAL);
  return padded;
}

// Puts in the place of -inf a number whose e^((x - largest) / T) is 0 too, but which can be subtracted.
template <class C>
void replace_gone(C* x, std::int64_t n, C largest, double temperature) {
  const double below = (sizeof(C) == 4 ? 100.0 : 800.0) * temperature + std::fabs(static_cast<double>(largest)) / 1024;
  const C stand_in = static_cast<C>(static_cast<double>(largest) - below);
  for (std::int64_t i = 0; i < n; ++i) x[i] = x[i] == static_cast<C>(-HUGE_VAL) ? stand_in : x[i];
}

template <class T, bool Scaled>
class PairScanner {
 public:
  using C = ComputeType<T>;

  explicit PairScanner(double temperature) : temperature_(temperature) {}

  void run(const T* x, const T* v, std::int64_t classes, PairScan& row) {
    std::int64_t n = 0;
    for (std::int64_t begin = 0; begin < classes; begin += n) {
      n = block_length(x, begin, classes);
      if (n % kGroup<C> != 0) {
        add_scratch(x + begin, v + begin, n);
        continue;
      }
      const PairBlock<T> block = {.x = x + begin, .v = v + begin, .n = n};
      const PairExtremes<C> top = extremes<C>(block);
      if (top.gone) {
        add_scratch(x + begin, v + begin, n);
      } else {
        add(block, top);
      }
    }
    finish(row);
  }

 private:
  void add_scratch(const T* x, const T* v, std::int64_t n) {
    alignas(64) C first[kBlock];
    alignas(64) C second[kBlock];
    const std::int64_t padded = copy_padded(x, n, first);
    copy_padded(v, n, second);
    for (std::int64_t i = 0; i < n; ++i) {
      broken_ |= first[i] != first[i] || second[i] != second[i];
      excluded_ |= first[i] > static_cast<C>(-HUGE_VAL) && second[i] == static_cast<C>(-HUGE_VAL);
    }
    const PairBlock<C> block = {.x = first, .v = second, .n = padded};
    const PairExtremes<C> top = extremes<C>(block);
    const bool no_x = top.largest == static_cast<C>(-HUGE_VAL);
    const bool no_v = top.ref_largest == static_cast<C>(-HUGE_VAL);
    if (no_x && no_v) return;
    const PairExtremes<C> finite = {
        .largest = no_x ? C{} : top.largest, .ref_largest = no_v ? C{} : top.ref_largest, .gone = false};
    replace_gone(first, padded, finite.largest, temperature_);
    replace_gone(second, padded, finite.ref_largest, temperature_);
    if (no_x || no_v) {
      add_alone(block, finite, no_v);
    } else {
      add(block, finite);
    }
  }

  // A block that only one of the rows has classes in.
  void add_alone(const PairBlock<C>& block, const PairExtremes<C>& top, bool is_x) {
    PairPart part;
    double mass = 0.0;
    double ref_mass = 0.0;
    plain_part<C, Scaled>(block, frame(top, C{}), part, mass, ref_mass);
    double& lse = is_x ? x_alone_ : v_alone_;
    double& highest = is_x ? largest_ : ref_largest_;
    const auto top_logit = static_cast<double>(is_x ? top.largest : top.ref_largest);
    highest = top_logit > highest ? top_logit : highest;
    lse = log_sum(lse, top_logit / temperature_ + std::log(is_x ? mass : ref_mass));
  }

  template <class Src>
  void add(const PairBlock<Src>& block, const PairExtremes<C>& top) {
    broken_ |= top.largest == static_cast<C>(HUGE_VAL) || top.ref_largest == static_cast<C>(HUGE_VAL);
    const auto largest = static_cast<double>(top.largest);
    const auto ref_largest = static_cast<double>(top.ref_largest);
    largest_ = largest > largest_ ? largest : largest_;
    ref_largest_ = ref_largest > ref_largest_ ? ref_largest : ref_largest_;
    if (!started_) pivot_ = delta_at_top(block, top);
    const PairPart part = part_of(block, top);
    total_ = started_ ? joined(total_, part) : part;
    started_ = true;
  }

  template <class Src>
  PairPart part_of(const PairBlock<Src>& block, const PairExtremes<C>& top) {
    PairPart part;
    double mass = 0.0;
    double ref_mass = 0.0;
    if (near_ && near_part<C, Scaled>(block, frame(top, pivot_), part, mass)) {
      // A class with most of the mass must be the pivot itself: there log(p/r) is as small as the mass of the others.
      if (mass >= 2.0 || pivot_ == delta_at_top(block, top)) return part;
      pivot_ = delta_at_top(block, top);
      if (near_part<C, Scaled>(block, frame(top, pivot_), part, mass)) return part;
    }
    plain_part<C, Scaled>(block, frame(top, pivot_), part, mass, ref_mass);
    const C better = mass < 2.0 ? delta_at_top(block, top) : static_cast<C>(part.pivot + part.mean);
    const bool moved = better != pivot_;
    pivot_ = better == better ? better : pivot_;
    near_ = part.divergence < 0.5;
    if (near_) {
      near_part<C, Scaled>(block, frame(top, pivot_), part, mass);
    } else if (moved && mass < 2.0) {
      plain_part<C, Scaled>(block, frame(top, pivot_), part, mass, ref_mass);
    }
    return part;
  }

  [[nodiscard]] PairFrame<C> frame(const PairExtremes<C>& top, C pivot) const {
    return {.temperature = temperature_, .largest = top.largest, .ref_largest = top.ref_largest, .pivot = pivot};
  }

  template <class Src>
  [[nodiscard]] C delta_at_top(const PairBlock<Src>& block, const PairExtremes<C>& top) const {
    std::int64_t i = 0;
    while (i < block.n - kLanes<C> && lanes_at_least<C>(load(block.x + i), splat(top.largest)) == 0) i += kLanes<C>;
    while (i < block.n - 1 && !(to_compute(block.x[i]) >= top.largest)) ++i;
    return delta_of<C, Scaled>(to_compute(block.x[i]), to_compute(block.v[i]), static_cast<C>(temperature_));
  }

  void finish(PairScan& row) const {
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    PairPart all = total_;
    if (!started_) {
      all = {.lse = x_alone_, .shift = x_alone_ - v_alone_};
    } else {
      const double ref_lse = all.lse - all.pivot - all.shift;
      const double gain = log_sum(all.lse, x_alone_) - all.lse;
      const double ref_gain = log_sum(ref_lse, v_alone_) - ref_lse;
      all.lse += gain;
      all.shift += gain - ref_gain;
      all.divergence += ref_gain;
    }
    if (excluded_) all.divergence = all.mean = HUGE_VAL;
    const bool has_x = started_ || x_alone_ != kGone;
    const bool has_v = started_ || v_alone_ != kGone;
    if (broken_ || !has_x || !has_v || all.shift != all.shift) {
      all = {.lse = kNan, .pivot = kNan, .shift = kNan, .mean = kNan, .divergence = kNan};
    }
    row = {.largest = largest_,
           .ref_largest = ref_largest_,
           .lse = all.lse,
           .pivot = all.pivot,
           .shift = all.shift,
           .mean = all.mean,
           .divergence = all.divergence};
  }

  double temperature_;
  bool near_ = true;
  bool started_ = false;
  bool broken_ = false;    // NaN or +inf
  bool excluded_ = false;  // r = 0 where p > 0
  C pivot_ = {};
  PairPart total_;
  double x_alone_ = kGone;  // lse over blocks without a class of the other row
  double v_alone_ = kGone;
  double largest_ = kGone;
  double ref_largest_ = kGone;
};

}  // namespace fluxcore::FLUXCORE_ISA
