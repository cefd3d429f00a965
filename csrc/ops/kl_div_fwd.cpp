#include <cmath>
#include <limits>
#include <vector>

#include "common/parallel.hpp"
#include "ops/kl_div_call.hpp"

namespace fluxcore {
namespace {

struct RowOutcome {
  KlDivState state;
  double divergence = 0.0;
};

double as_stored(const KlDivCall& call, double value) {
  return call.dtype == DType::float64 ? value : static_cast<double>(static_cast<float>(value));
}

// The policy's sum against the m that is stored, so that the rounding of that does not count.
KlDivState state_of(const KlDivCall& call, double largest, double lse) {
  const double m = as_stored(call, largest / call.temperature);
  return {.m = m, .s = std::expm1(lse - m)};
}

// Writes pivot + shift such that the pivot is the number nearest to pivot + offset: then what is stored says within an
// ulp of an ulp where differences from it are small.
void move_pivot(const KlDivCall& call, double pivot, double shift, double offset, KlDivState& state) {
  state.pivot = as_stored(call, pivot + offset);
  state.shift = (pivot - state.pivot) + shift;
}

RowOutcome row_outcome(const KlDivCall& call, const KlDivKernels& kernels, std::int64_t row) {
  const void* x = kl_div_row(call.x, call.dtype, row, call.row_stride);
  const void* v = kl_div_row(call.ref, call.dtype, row, call.ref_stride);
  RowOutcome outcome;
  PairScan scan;
  if (call.direction == Direction::ref_policy) {
    kernels.scan(v, x, call.classes, call.temperature, scan);
    outcome.state = state_of(call, scan.ref_largest, ref_lse(scan.lse, scan.pivot, scan.shift));
    move_pivot(call, -scan.pivot, -scan.shift, -scan.shift, outcome.state);
    outcome.divergence = scan.divergence;
    return outcome;
  }
  kernels.scan(x, v, call.classes, call.temperature, scan);
  outcome.state = state_of(call, scan.largest, scan.lse);
  // The gradient of policy_ref is about the mean of delta, the others' are about that of a class with p = r.
  const double offset = call.direction == Direction::policy_ref ? scan.mean : scan.shift;
  move_pivot(call, scan.pivot, scan.shift, offset, outcome.state);
  outcome.state.centre = outcome.divergence = scan.divergence;
  if (call.direction == Direction::jsd && !std::isnan(scan.divergence)) {
    Mixture mixture = {.beta = call.beta};
    scan.pivot = outcome.state.pivot;
    scan.shift = outcome.state.shift;
    kernels.mixture(x, v, call.classes, call.temperature, scan, mixture);
    outcome.state.centre = mixture.moment / mixture.mass;
    outcome.divergence = mixture.divergence;
  }
  return outcome;
}

template <class C>
void store_state(const KlDivCall& call, const KlDivState& from, std::int64_t row, void* to) {
  const auto& [m, s, pivot, shift, centre] = from;
  const double values[kKlDivStates] = {m, s, pivot, shift, centre};
  for (int i = 0; i < kKlDivStates; ++i) static_cast<C*>(to)[i * call.rows + row] = static_cast<C>(values[i]);
}

double total_weight(const KlDivCall& call) {
  if (call.reduction == Reduction::mean) return static_cast<double>(call.rows);
  if (call.reduction != Reduction::token_mean) return 1.0;
  double sum = 0.0;
  for (std::int64_t row = 0; row < call.rows; ++row) sum += kl_div_weight(call, row);
  return sum;
}

// `rows` are weighted divergences.
template <class C>
void store_loss(const KlDivCall& call, const std::vector<double>& rows, double total, const KlDivResults& results) {
  C* loss = static_cast<C*>(results.loss);
  *static_cast<C*>(results.totals) = static_cast<C>(total);
  if (call.reduction == Reduction::none) {
    for (std::size_t row = 0; row < rows.size(); ++row) loss[row] = static_cast<C>(rows[row]);
    return;
  }
  double sum = 0.0;
  for (const double row : rows) sum += row;
  *loss = total == 0.0 ? std::numeric_limits<C>::quiet_NaN() : static_cast<C>(sum / total);
}

}  // namespace

void kl_div_fwd(const KlDivCall& call, const KlDivResults& results) {
  check_kl_div(call);
  const KlDivKernels& kernels = kl_div_kernels(call.isa, call.dtype);
  std::vector<double> rows(static_cast<std::size_t>(call.rows));
  parallel_for(call.rows, kl_div_row_grain(call), call.threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const double weight = kl_div_weight(call, row);
      const RowOutcome outcome = weight == 0.0 ? RowOutcome{} : row_outcome(call, kernels, row);
      if (weight != 0.0) rows[static_cast<std::size_t>(row)] = weight * outcome.divergence;
      if (call.dtype == DType::float64) {
        store_state<double>(call, outcome.state, row, results.state);
      } else {
        store_state<float>(call, outcome.state, row, results.state);
      }
    }
  });
  if (call.dtype == DType::float64) {
    store_loss<double>(call, rows, total_weight(call), results);
  } else {
    store_loss<float>(call, rows, total_weight(call), results);
  }
}

}  // namespace fluxcore
