#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/parallel.hpp"
#include "ops/softmax_call.hpp"
#include "ops/special_classes.hpp"

namespace fluxcore {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// The gradient of one row: a rule for all its elements, and the exact value at the few where the rule would cancel.
// With p = e^z / (1 + s), mean = t / (1 + s) and u = z - mean = log p + H:
//   lse          p                              logprob     [i = target] - p
//   entropy      -p u                           varentropy  p (u^2 + 2 u - varentropy)
//   max_prob     p_max ([i = argmax] - p)       top_k_mass  p ([i in top k] - top_k_mass)
// and 1 - p_max = s / (1 + s), 1 - top_k_mass = r / (1 + s), where s and r leave the argmax and the top k out.
class RowGradient {
 public:
  RowGradient(const SoftmaxStatsCall& call, const SoftmaxStatsGrads& grads, const SoftmaxKernels& kernels,
              std::int64_t row)
      : call_(call), kernels_(kernels), x_(softmax_row(call, row)), argmax_(grads.argmax[row]) {
    if (call.top_k > 0) top_ = grads.top_index + row * call.top_k;
    if (call.target != nullptr) target_ = call.target[row];
    target_is_class_ = target_is_class(call, row);
    if (call.dtype == DType::float64) {
      load_row(static_cast<const double*>(grads.grads) + row, static_cast<const double*>(grads.state) + row);
    } else {
      load_row(static_cast<const float*>(grads.grads) + row, static_cast<const float*>(grads.state) + row);
    }
    largest_ = capped_logit(kernels.read(x_, argmax_), call.transform);
    mean_ = t_ / n_;
    variance_ = spread_ / n_;
    for (int k = 0; k < call.top_k; ++k) inside_ += std::exp(z_at(kernels.read(x_, top_[k])));
  }

  void write(void* dx) const {
    if (std::ranges::all_of(grad_, [](double g) { return g == 0.0; })) {
      std::memset(dx, 0, static_cast<std::size_t>(call_.classes) * dtype_size(call_.dtype));
      return;
    }
    SpecialClasses special;
    special.add(argmax_, at(argmax_));
    if (target_is_class_) special.add(target_, at(target_));
    for (int k = 0; k < call_.top_k; ++k) special.add(top_[k], at(top_[k]));
    kernels_.sweep(x_, dx, call_.classes, call_.transform, rule());
    special.write(kernels_, dx);
  }

 private:
  template <class C>
  void load_row(const C* grads, const C* state) {
    for (int i = 0; i < kSoftmaxStatsOutputs; ++i) {
      if ((call_.outputs >> i & 1U) == 0) continue;
      grad_[i] = static_cast<double>(*grads);
      grads += call_.rows;
    }
    const auto field = [&](int i) { return static_cast<double>(state[i * call_.rows]); };
    s_ = field(1);
    t_ = field(2);
    spread_ = field(3);
    outside_ = field(5);
    n_ = 1.0 + s_;
  }

  [[nodiscard]] double z_at(double logit) const {
    return (capped_logit(logit, call_.transform) - largest_) / call_.transform.temperature;
  }

  [[nodiscard]] RowSweep rule() const {
    const auto& [lse, logprob, entropy, varentropy, max_prob, one_minus_max_prob, top_k_mass] = grad_;
    double a = lse;
    double b = 0.0;
    double c = 0.0;
    if (logprob != 0.0) a = target_is_class_ ? a - logprob : kNan;
    if (entropy != 0.0) {
      a += entropy * mean_;
      b -= entropy;
    }
    if (varentropy != 0.0) {
      a += varentropy * (mean_ * (mean_ - 2.0) - variance_);
      b += varentropy * 2.0 * (1.0 - mean_);
      c += varentropy;
    }
    a += (one_minus_max_prob - max_prob) / n_;
    if (top_k_mass != 0.0) a -= top_k_mass * inside_ / n_;
    const double scale = 1.0 / (n_ * call_.transform.temperature);
    return {.largest = largest_, .a = a * scale, .b = b * scale, .c = c * scale};
  }

  // For the argmax, the target and the top k.
  [[nodiscard]] double at(std::int64_t i) const {
    const auto& [lse, logprob, entropy, varentropy, max_prob, one_minus_max_prob, top_k_mass] = grad_;
    const double logit = kernels_.read(x_, i);
    if (logit == -std::numeric_limits<double>::infinity()) return 0.0;
    const double z = z_at(logit);
    const double p = std::exp(z) / n_;
    const double u = z - mean_;
    const double rest = i == argmax_ ? s_ / n_ : 1.0 - p;
    double g = lse * p;
    if (logprob != 0.0) g += target_is_class_ ? logprob * (i == target_ ? rest : -p) : kNan;
    if (entropy != 0.0) g -= entropy * p * u;
    if (varentropy != 0.0) g += varentropy * p * (u * (u + 2.0) - variance_);
    g += (max_prob - one_minus_max_prob) * (i == argmax_ ? rest : -p) / n_;
    if (top_k_mass != 0.0) {
      const bool member = std::find(top_, top_ + call_.top_k, i) != top_ + call_.top_k;
      g += top_k_mass * p * (member ? outside_ : -inside_) / n_;
    }
    const double cosh = call_.transform.softcap > 0.0 ? std::cosh(logit / call_.transform.softcap) : 1.0;
    return g / (cosh * cosh * call_.transform.temperature);
  }

  const SoftmaxStatsCall& call_;
  const SoftmaxKernels& kernels_;
  const void* x_;
  std::int64_t argmax_;
  std::int64_t target_ = -1;
  bool target_is_class_ = false;
  const std::int32_t* top_ = nullptr;
  double grad_[kSoftmaxStatsOutputs] = {};  // in the order of SoftmaxStatsOutput; 0 where not asked for
  double largest_ = 0.0;
  double s_ = 0.0;
  double t_ = 0.0;
  double spread_ = 0.0;
  double outside_ = 0.0;
  double inside_ = 0.0;
  double n_ = 1.0;
  double mean_ = 0.0;
  double variance_ = 0.0;
};

}  // namespace

void softmax_stats_bwd(const SoftmaxStatsCall& call, const SoftmaxStatsGrads& grads) {
  check_softmax_stats(call);
  const SoftmaxKernels& kernels = softmax_kernels(call.isa, call.dtype);
  const std::size_t row_bytes = static_cast<std::size_t>(call.classes) * dtype_size(call.dtype);
  parallel_for(call.rows, softmax_row_grain(call), call.threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const RowGradient gradient(call, grads, kernels, row);
      gradient.write(static_cast<std::byte*>(grads.dx) + static_cast<std::size_t>(row) * row_bytes);
    }
  });
}

}  // namespace fluxcore
