#include "ops/cross_entropy_gradient.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/special_classes.hpp"

namespace fluxcore {

CrossEntropyGradient::CrossEntropyGradient(const CrossEntropyPass& pass, const CrossEntropyRow& target,
                                           const CrossEntropyState& state, std::int64_t row, std::int64_t argmax,
                                           const std::int32_t* top_index, double upstream)
    : pass_(pass),
      target_(target),
      state_(state),
      x_(softmax_row(pass.call.logits, row)),
      argmax_(argmax),
      top_index_(top_index + row * pass.call.logits.top_k) {
  const CrossEntropyCall& call = pass.call;
  const double weighted =
      target.invalid() ? std::numeric_limits<double>::quiet_NaN() : upstream * target.token_weight();
  by_loss_ = weighted / pass.totals.loss;
  by_z_loss_ = call.lse_square_scale > 0.0 ? weighted / pass.totals.z_loss : 0.0;
  const double factor = target.penalty_factor();
  by_penalty_ = factor != 0.0 ? weighted * factor : 0.0;
  if (call.probabilities != nullptr) {
    all_shares_ = state.mass_rest + target.share(argmax);
  } else {
    all_shares_ = (1.0 - call.label_smoothing) * target.target_weight();
    if (target.has_shares()) all_shares_ += target.smoothing() * pass.totals.weights;
  }
  if (call.link == Link::softmax) {
    n_ = 1.0 + state.s;
    largest_ = capped_logit(pass.softmax.read(x_, argmax), call.logits.transform);
  } else {
    n_ = state.s + state.m;
  }
}

void CrossEntropyGradient::write(void* gradient) const {
  const CrossEntropyCall& call = pass_.call;
  SpecialClasses special;
  const bool by_argmax = call.penalty == Penalty::non_max_sum || call.penalty == Penalty::neg_max_prob;
  if (by_argmax || call.probabilities != nullptr) special.add(argmax_, at(argmax_));
  if (call.probabilities == nullptr && !target_.invalid()) special.add(target_.target(), at(target_.target()));
  for (int k = 0; k < call.logits.top_k; ++k) special.add(top_index_[k], at(top_index_[k]));
  sweep(gradient);
  special.write(pass_.softmax, gradient);
}

void CrossEntropyGradient::sweep(void* gradient) const {
  const CrossEntropyCall& call = pass_.call;
  const std::int64_t classes = call.logits.classes;
  const double of_shares = call.probabilities != nullptr ? by_loss_
                           : target_.has_shares()        ? by_loss_ * target_.smoothing()
                                                         : 0.0;
  if (call.link == Link::stablemax) {
    pass_.kernels.stablemax_sweep(x_, gradient, classes, target_.shares(), by_loss_ * all_shares_ / n_, of_shares);
    return;
  }
  const LogitTransform& transform = call.logits.transform;
  double a = by_loss_ * all_shares_ + of_lse();
  double b = 0.0;
  switch (call.penalty) {
    case Penalty::none:
      break;
    case Penalty::non_max_sum:
    case Penalty::neg_max_prob:
      a += by_penalty_ / n_;
      break;
    case Penalty::neg_entropy:
      a += by_penalty_ * state_.t / n_;
      b -= by_penalty_;
      break;
    case Penalty::top_k_mass:
      a += by_penalty_ * state_.inside / n_;
      break;
  }
  const double scale = 1.0 / (n_ * transform.temperature);
  const RowSweep rule = {.largest = largest_, .a = a * scale, .b = b * scale, .c = 0.0};
  if (target_.has_shares()) {
    pass_.kernels.sweep(x_, gradient, classes, target_.shares(), transform, rule, of_shares / transform.temperature);
  } else {
    pass_.softmax.sweep(x_, gradient, classes, transform, rule);
  }
}

double CrossEntropyGradient::z_at(double logit) const {
  const LogitTransform& transform = pass_.call.logits.transform;
  return (capped_logit(logit, transform) - largest_) / transform.temperature;
}

double CrossEntropyGradient::of_lse() const {
  if (by_z_loss_ == 0.0) return 0.0;
  return by_z_loss_ * 2.0 * pass_.call.lse_square_scale * (state_.m + std::log1p(state_.s));
}

double CrossEntropyGradient::of_loss(std::int64_t i, double p, double rest) const {
  const CrossEntropyCall& call = pass_.call;
  if (call.probabilities != nullptr) {
    return i == argmax_ ? by_loss_ * (state_.mass_rest * p - target_.share(i) * rest)
                        : by_loss_ * (all_shares_ * p - target_.share(i));
  }
  const double own = (1.0 - call.label_smoothing) * target_.target_weight();
  double g = by_loss_ * own * (i == target_.target() ? -rest : p);
  if (target_.has_shares()) g += by_loss_ * target_.smoothing() * (pass_.totals.weights * p - target_.share(i));
  return g;
}

double CrossEntropyGradient::of_penalty(std::int64_t i, double z, double p, double rest) const {
  if (by_penalty_ == 0.0) return 0.0;
  const std::int64_t top_k = pass_.call.logits.top_k;
  switch (pass_.call.penalty) {
    case Penalty::none:
      break;
    case Penalty::non_max_sum:
    case Penalty::neg_max_prob:
      return by_penalty_ * (i == argmax_ ? -rest : p) / n_;
    case Penalty::neg_entropy:
      return -by_penalty_ * p * (z - state_.t / n_);
    case Penalty::top_k_mass:
      const bool member = std::find(top_index_, top_index_ + top_k, i) != top_index_ + top_k;
      return by_penalty_ * p * (member ? -state_.outside : state_.inside) / n_;
  }
  return 0.0;
}

double CrossEntropyGradient::at(std::int64_t i) const {
  const double logit = pass_.softmax.read(x_, i);
  if (logit == -std::numeric_limits<double>::infinity()) return 0.0;
  if (pass_.call.link == Link::stablemax) {  // i is the class that is kept out of the sums
    const double slope = 1.0 / (1.0 + std::abs(logit));
    return slope * of_loss(i, state_.m / n_, state_.s / n_);
  }
  const LogitTransform& transform = pass_.call.logits.transform;
  const double z = z_at(logit);
  const double p = std::exp(z) / n_;
  const double rest = i == argmax_ ? state_.s / n_ : 1.0 - p;
  const double g = of_loss(i, p, rest) + of_lse() * p + of_penalty(i, z, p, rest);
  const double cosh = transform.softcap > 0.0 ? std::cosh(logit / transform.softcap) : 1.0;
  return g / (cosh * cosh * transform.temperature);
}

}  // namespace fluxcore
