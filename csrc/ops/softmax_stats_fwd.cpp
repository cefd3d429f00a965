#include <cmath>
#include <limits>

#include "common/parallel.hpp"
#include "ops/softmax_call.hpp"

namespace fluxcore {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// A row of results, in the order of SoftmaxStatsOutput and of SoftmaxStatsResults::state.
struct RowResult {
  double stats[kSoftmaxStatsOutputs];
  double state[6];
  std::int64_t argmax;
};

double target_logit(const SoftmaxStatsCall& call, const SoftmaxKernels& kernels, std::int64_t row) {
  if (call.target == nullptr) return 0.0;
  if (!target_is_class(call, row)) return kNan;
  return capped_logit(kernels.read(softmax_row(call, row), call.target[row]), call.transform);
}

RowResult without_value(double m, double lse, double x_y, std::int64_t argmax) {
  return {
      .stats = {lse, kNan, kNan, kNan, kNan, kNan, kNan}, .state = {m, kNan, kNan, kNan, x_y, kNan}, .argmax = argmax};
}

RowResult row_result(const SoftmaxStatsCall& call, const SoftmaxKernels& kernels, std::int64_t row,
                     const RowScan& scan) {
  const double temperature = call.transform.temperature;
  const double c_y = target_logit(call, kernels, row);
  if (std::isnan(scan.sums.s)) {
    const std::int64_t nan = kernels.first_nan(softmax_row(call, row), call.classes);
    if (nan >= 0) return without_value(kNan, kNan, c_y / temperature, nan);
  }
  const double m = scan.value[0] / temperature;
  const std::int64_t argmax = scan.index[0];
  if (std::isinf(m)) return without_value(m, m, c_y / temperature, argmax);

  double inside = 1.0;
  Sums sums = scan.sums;
  for (int k = 1; k < scan.kept; ++k) {
    const double z = (scan.value[k] - scan.value[0]) / temperature;
    const double e = std::exp(z);
    if (e == 0.0) break;
    inside += e;
    sums.add({.s = e, .t = z * e});
  }
  const double n = 1.0 + sums.s;
  const double log_n = std::log1p(sums.s);
  const double mean = sums.t / n;
  const double spread = sums.m2 + mean * sums.mean();  // the argmax, with z = 0 and weight 1, joins the others
  const bool is_argmax = call.target != nullptr && call.target[row] == argmax;
  const double z_y = is_argmax ? 0.0 : (c_y - scan.value[0]) / temperature;
  const bool variance = (call.outputs & kVarentropy) != 0;
  const bool moments = variance || (call.outputs & kEntropy) != 0;
  return {.stats = {m + log_n, z_y - log_n, log_n - mean, spread / n, 1.0 / n, sums.s / n, inside / n},
          .state = {m, sums.s, moments ? sums.t : 0.0, variance ? spread : 0.0, c_y / temperature,
                    call.top_k > 0 ? scan.sums.s : 0.0},
          .argmax = argmax};
}

template <class C>
void store_row(const SoftmaxStatsCall& call, const SoftmaxStatsResults& results, std::int64_t row,
               const RowResult& result) {
  C* stat = static_cast<C*>(results.stats) + row;
  for (int i = 0; i < kSoftmaxStatsOutputs; ++i) {
    if ((call.outputs >> i & 1U) == 0) continue;
    *stat = static_cast<C>(result.stats[i]);
    stat += call.rows;
  }
  C* state = static_cast<C*>(results.state) + row;
  for (int i = 0; i < 6; ++i) state[i * call.rows] = static_cast<C>(result.state[i]);
  results.argmax[row] = result.argmax;
}

}  // namespace

void softmax_stats_fwd(const SoftmaxStatsCall& call, const SoftmaxStatsResults& results) {
  check_softmax_stats(call);
  const SoftmaxKernels& kernels = softmax_kernels(call.isa, call.dtype);
  const int moments = (call.outputs & kVarentropy) != 0 ? 2 : (call.outputs & kEntropy) != 0 ? 1 : 0;
  const SoftmaxKernels::Scan scan_row = kernels.scan[moments];
  parallel_for(call.rows, softmax_row_grain(call), call.threads, [&](std::int64_t begin, std::int64_t end) {
    RowScan scan;
    scan.keep = call.top_k > 0 ? call.top_k : 1;
    for (std::int64_t row = begin; row < end; ++row) {
      scan_row(softmax_row(call, row), call.classes, call.transform, scan);
      const RowResult result = row_result(call, kernels, row, scan);
      if (call.dtype == DType::float64) {
        store_row<double>(call, results, row, result);
      } else {
        store_row<float>(call, results, row, result);
      }
      for (int k = 0; k < call.top_k; ++k) {
        // A row with NaN may keep fewer; any class will do there.
        results.top_index[row * call.top_k + k] = k < scan.kept ? static_cast<std::int32_t>(scan.index[k]) : 0;
      }
    }
  });
}

}  // namespace fluxcore
