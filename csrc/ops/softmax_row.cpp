#include "ops/softmax_row.hpp"

#include <cmath>
#include <limits>

namespace fluxcore {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double target_logit(const SoftmaxStatsCall& call, const SoftmaxKernels& kernels, std::int64_t row) {
  if (call.target == nullptr) return 0.0;
  if (!target_is_class(call, row)) return kNan;
  return capped_logit(kernels.read(softmax_row(call, row), call.target[row]), call.transform);
}

SoftmaxRowResult without_value(double m, double lse, double x_y, std::int64_t argmax) {
  return {.stats = {lse, kNan, kNan, kNan, kNan, kNan, kNan},
          .state = {m, kNan, kNan, kNan, x_y, kNan},
          .argmax = argmax,
          .inside = kNan,
          .log_n = kNan,
          .z_y = kNan};
}

}  // namespace

int moments_of(const SoftmaxStatsCall& call) {
  return (call.outputs & kVarentropy) != 0 ? 2 : (call.outputs & kEntropy) != 0 ? 1 : 0;
}

SoftmaxRowResult softmax_row_result(const SoftmaxStatsCall& call, const SoftmaxKernels& kernels, std::int64_t row,
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
  const int moments = moments_of(call);
  return {.stats = {m + log_n, z_y - log_n, log_n - mean, spread / n, 1.0 / n, sums.s / n, inside / n},
          .state = {m, sums.s, moments >= 1 ? sums.t : 0.0, moments == 2 ? spread : 0.0, c_y / temperature,
                    call.top_k > 0 ? scan.sums.s : 0.0},
          .argmax = argmax,
          .inside = inside,
          .log_n = log_n,
          .z_y = z_y};
}

void store_top_index(const SoftmaxStatsCall& call, const RowScan& scan, std::int64_t row, std::int32_t* top_index) {
  for (int k = 0; k < call.top_k; ++k) {
    // A row with NaN may keep fewer; any class will do there.
    top_index[row * call.top_k + k] = k < scan.kept ? static_cast<std::int32_t>(scan.index[k]) : 0;
  }
}

}  // namespace fluxcore
