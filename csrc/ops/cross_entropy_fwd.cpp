#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/huge_pages.hpp"
#include "common/parallel.hpp"
#include "ops/cross_entropy_gradient.hpp"
#include "ops/cross_entropy_row.hpp"
#include "ops/softmax_row.hpp"

namespace fluxcore {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct RowOutcome {
  CrossEntropyState state = {};
  std::int64_t argmax = 0;
  double loss = 0.0;
};

// The rows of one forward pass. One object a thread, since the scan is scratch.
class ForwardRows {
 public:
  ForwardRows(const CrossEntropyPass& pass, const CrossEntropyResults& results) : pass_(pass), results_(results) {
    scan_.keep = pass.scanned.top_k > 0 ? pass.scanned.top_k : 1;
  }

  // Its loss; all else goes into the results.
  double run(std::int64_t row) {
    const CrossEntropyCall& call = pass_.call;
    const CrossEntropyRow target(pass_, row);
    const bool statistics = call.logits.outputs != 0 || call.argmax_wanted;
    RowOutcome outcome;
    if (target.dead() && !statistics) {
      std::fill_n(results_.top_index + row * call.logits.top_k, call.logits.top_k, 0);
    } else {
      outcome = call.link == Link::softmax ? softmax(target, row) : stablemax(target, row);
    }
    // Before the state of a dead row is cleared, and while the row is in a cache.
    if (results_.gradient != nullptr) write_gradient(target, outcome, row);
    if (target.dead()) outcome.state = {};
    if (call.logits.dtype == DType::float64) {
      store_state<double>(outcome, row);
    } else {
      store_state<float>(outcome, row);
    }
    return outcome.loss;
  }

 private:
  RowOutcome softmax(const CrossEntropyRow& target, std::int64_t row) {
    const SoftmaxStatsCall& logits = pass_.scanned;
    const void* x = softmax_row(logits, row);
    pass_.softmax.scan[moments_of(logits)](x, logits.classes, logits.transform, scan_);
    const SoftmaxRowResult result = softmax_row_result(logits, pass_.softmax, row, scan_);
    if (logits.dtype == DType::float64) {
      store_softmax_stats<double>(pass_.call.logits, result, row, results_.stats);
    } else {
      store_softmax_stats<float>(pass_.call.logits, result, row, results_.stats);
    }
    store_top_index(logits, scan_, row, results_.top_index);
    if (target.dead()) return {.argmax = result.argmax};

    const auto& [m, s, t, spread, x_y, outside] = result.state;
    RowOutcome outcome = {.state = {.m = m, .s = s, .t = t, .x_y = x_y}, .argmax = result.argmax};
    if (logits.top_k > 0) {
      outcome.state.inside = result.inside;
      outcome.state.outside = outside;
    }
    ShareSums sums;
    const bool probable = pass_.call.probabilities != nullptr;
    if (target.has_shares() && !std::isnan(s)) {
      // z is 0 at the argmax, so that only a mass must leave it out.
      sums = pass_.kernels.share_sums(x, logits.classes, probable ? result.argmax : -1, target.shares(),
                                      logits.transform, scan_.value[0]);
    }
    if (probable) outcome.state.mass_rest = sums.mass;
    const Surprise surprise = {.own = probable ? result.log_n : result.log_n - result.z_y, .level = result.log_n};
    outcome.loss = target.value(outcome.state, surprise, sums.moment, result.argmax);
    return outcome;
  }

  RowOutcome stablemax(const CrossEntropyRow& target, std::int64_t row) {
    const SoftmaxStatsCall& logits = pass_.call.logits;
    if (target.invalid()) return {.state = {.m = kNan, .s = kNan, .x_y = kNan}, .loss = kNan};
    const void* x = softmax_row(logits, row);
    const bool probable = pass_.call.probabilities != nullptr;
    const std::int64_t kept_out = probable ? pass_.kernels.largest(x, logits.classes) : target.target();
    const StableMaxScan scan =
        pass_.kernels.stablemax_scan(x, logits.classes, kept_out, target.has_shares(), target.shares());
    const double own_logit = pass_.softmax.read(x, kept_out);
    const double own = own_logit >= 0.0 ? own_logit + 1.0 : 1.0 / (1.0 - own_logit);
    const double all = scan.others + own;
    // A NaN, an infinite logit, or nothing but -inf.
    const bool has_value = std::isfinite(all) && all > 0.0;
    RowOutcome outcome = {.state = {.m = own, .s = has_value ? scan.others : kNan}, .argmax = probable ? kept_out : 0};
    double moment = scan.sums.moment;
    if (probable) {
      outcome.state.mass_rest = scan.sums.mass;
    } else if (target.has_shares()) {  // with classes Z is over all classes
      const double share = target.share(kept_out);
      if (share != 0.0) moment += share * (own_logit >= 0.0 ? std::log1p(own_logit) : -std::log1p(-own_logit));
    }
    const Surprise surprise = {.own = std::log1p(scan.others / own), .level = std::log(all)};
    outcome.loss = target.value(outcome.state, surprise, moment, kept_out);
    return outcome;
  }

  void write_gradient(const CrossEntropyRow& target, const RowOutcome& outcome, std::int64_t row) const {
    const std::size_t row_bytes = gradient_row_bytes(pass_.call);
    void* gradient = static_cast<std::byte*>(results_.gradient) + static_cast<std::size_t>(row) * row_bytes;
    if (target.dead()) {
      std::memset(gradient, 0, row_bytes);
      return;
    }
    CrossEntropyGradient(pass_, target, outcome.state, row, outcome.argmax, results_.top_index, 1.0).write(gradient);
  }

  template <class C>
  void store_state(const RowOutcome& outcome, std::int64_t row) const {
    const auto& [m, s, t, x_y, inside, outside, mass_rest] = outcome.state;
    const double values[kCrossEntropyStates] = {m, s, t, x_y, inside, outside, mass_rest};
    C* state = static_cast<C*>(results_.state) + row;
    for (int i = 0; i < kCrossEntropyStates; ++i) state[i * pass_.call.logits.rows] = static_cast<C>(values[i]);
    results_.argmax[row] = outcome.argmax;
  }

  const CrossEntropyPass& pass_;
  const CrossEntropyResults& results_;
  RowScan scan_;
};

template <class C>
void store_totals(const CrossEntropyTotals& totals, void* to) {
  const auto& [loss, z_loss, penalty, weights] = totals;
  const double values[] = {loss, z_loss, penalty, weights};
  for (int i = 0; i < 4; ++i) static_cast<C*>(to)[i] = static_cast<C>(values[i]);
}

template <class C>
void store_loss(const CrossEntropyPass& pass, const std::vector<double>& rows, void* to) {
  C* loss = static_cast<C*>(to);
  if (pass.call.reduction == Reduction::none || pass.call.reduction == Reduction::given) {
    for (std::size_t row = 0; row < rows.size(); ++row) loss[row] = static_cast<C>(rows[row]);
    return;
  }
  double sum = pass.totals.loss == 0.0 ? kNan : 0.0;
  for (const double row : rows) sum += row;
  *loss = static_cast<C>(sum);
}

}  // namespace

void cross_entropy_fwd(const CrossEntropyCall& call, const CrossEntropyResults& results) {
  check_cross_entropy(call);
  const bool given = call.reduction == Reduction::given;
  const CrossEntropyPass pass(call,
                              given ? load_totals(results.totals, call.logits.dtype) : cross_entropy_totals(call));
  if (results.gradient != nullptr) {
    prefer_huge_pages(results.gradient, static_cast<std::size_t>(call.logits.rows) * gradient_row_bytes(call));
  }
  std::vector<double> losses(static_cast<std::size_t>(call.logits.rows));
  parallel_for(call.logits.rows, softmax_row_grain(call.logits), call.logits.threads,
               [&](std::int64_t begin, std::int64_t end) {
                 ForwardRows rows(pass, results);
                 for (std::int64_t row = begin; row < end; ++row) losses[static_cast<std::size_t>(row)] = rows.run(row);
               });
  if (call.logits.dtype == DType::float64) {
    if (!given) store_totals<double>(pass.totals, results.totals);
    store_loss<double>(pass, losses, results.loss);
  } else {
    if (!given) store_totals<float>(pass.totals, results.totals);
    store_loss<float>(pass, losses, results.loss);
  }
}

}  // namespace fluxcore
