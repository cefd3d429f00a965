#include "ops/cross_entropy_row.hpp"

#include <cmath>
#include <limits>

namespace fluxcore {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

SoftmaxStatsCall with_outputs_of_loss(const CrossEntropyCall& call) {
  SoftmaxStatsCall scanned = call.logits;
  if (call.penalty == Penalty::neg_entropy) scanned.outputs |= kEntropy;
  return scanned;
}

}  // namespace

double wide_at(const void* values, DType dtype, std::int64_t i) {
  return dtype == DType::float64 ? static_cast<const double*>(values)[i]
                                 : static_cast<double>(static_cast<const float*>(values)[i]);
}

CrossEntropyPass::CrossEntropyPass(const CrossEntropyCall& of, const CrossEntropyTotals& with)
    : call(of),
      totals(with),
      scanned(with_outputs_of_loss(of)),
      softmax(softmax_kernels(of.logits.isa, of.logits.dtype)),
      kernels(cross_entropy_kernels(of.logits.isa, of.logits.dtype)) {}

CrossEntropyRow::CrossEntropyRow(const CrossEntropyPass& pass, std::int64_t row) : pass_(pass), row_(row) {
  const CrossEntropyCall& call = pass.call;
  if (call.token_weight != nullptr) token_weight_ = wide_at(call.token_weight, call.logits.dtype, row);
  dead_ = token_weight_ == 0.0;
  if (call.logits.target == nullptr) return;
  target_ = call.logits.target[row];
  dead_ |= target_ == call.ignore_index;
  invalid_ = !dead_ && !target_is_class(call.logits, row);
  if (call.weight != nullptr && target_is_class(call.logits, row)) {
    target_weight_ = wide_at(call.weight, call.logits.dtype, target_);
  }
}

double CrossEntropyRow::penalty_factor() const {
  const CrossEntropyCall& call = pass_.call;
  if (call.penalty == Penalty::none || pass_.totals.penalty == 0.0) return 0.0;
  const double mask = call.penalty_mask != nullptr ? wide_at(call.penalty_mask, call.logits.dtype, row_) : 1.0;
  return call.penalty_coef * mask / pass_.totals.penalty;
}

bool CrossEntropyRow::has_shares() const {
  return pass_.call.probabilities != nullptr || pass_.call.label_smoothing > 0.0;
}

double CrossEntropyRow::smoothing() const {
  return pass_.call.label_smoothing / static_cast<double>(pass_.call.logits.classes);
}

ClassShares CrossEntropyRow::shares() const {
  const CrossEntropyCall& call = pass_.call;
  if (call.probabilities == nullptr) return {.weight = call.weight};
  const auto offset = static_cast<std::ptrdiff_t>(row_ * call.probability_stride) *
                      static_cast<std::ptrdiff_t>(dtype_size(call.logits.dtype));
  return {.weight = call.weight,
          .probabilities = static_cast<const std::byte*>(call.probabilities) + offset,
          .share = 1.0 - call.label_smoothing,
          .floor = smoothing()};
}

double CrossEntropyRow::share(std::int64_t i) const {
  const ClassShares of = shares();
  const double weight = of.weight != nullptr ? wide_at(of.weight, pass_.call.logits.dtype, i) : 1.0;
  if (of.probabilities == nullptr) return weight;
  return weight * (of.share * pass_.softmax.read(of.probabilities, i) + of.floor);
}

double CrossEntropyRow::penalty(const CrossEntropyState& state) const {
  const double n = 1.0 + state.s;
  switch (pass_.call.penalty) {
    case Penalty::none:
      break;
    case Penalty::non_max_sum:
      return state.s / n;
    case Penalty::neg_entropy:
      return std::log1p(state.s) - state.t / n;
    case Penalty::neg_max_prob:
      return -1.0 / n;
    case Penalty::top_k_mass:
      return state.outside / (state.inside + state.outside);
  }
  return 0.0;
}

double CrossEntropyRow::value(const CrossEntropyState& state, const Surprise& surprise, double moment,
                              std::int64_t argmax) const {
  const CrossEntropyCall& call = pass_.call;
  if (dead_) return 0.0;
  if (invalid_ || std::isnan(state.s)) return kNan;
  const auto share_of = [](double c, double own) { return c == 0.0 ? 0.0 : c * own; };  // 0 also of an infinite one
  double loss = 0.0;
  if (call.probabilities != nullptr) {
    loss = state.mass_rest * surprise.level - moment + share_of(share(argmax), surprise.own);
  } else {
    loss = share_of((1.0 - call.label_smoothing) * target_weight_, surprise.own);
    if (call.label_smoothing > 0.0) loss += smoothing() * (pass_.totals.weights * surprise.level - moment);
  }
  double value = loss / pass_.totals.loss;
  if (call.lse_square_scale > 0.0) {
    const double lse = state.m + std::log1p(state.s);
    value += call.lse_square_scale * lse * lse / pass_.totals.z_loss;
  }
  if (const double factor = penalty_factor(); factor != 0.0) value += factor * penalty(state);
  return token_weight_ * value;
}

}  // namespace fluxcore
