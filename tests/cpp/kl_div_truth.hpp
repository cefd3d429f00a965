#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "logit_rows.hpp"
#include "ops/kl_div.hpp"

// What kl_div of a row is.
namespace fluxcore::test {

struct Pair {
  Pair(DType dtype, const Matrix& policy, const Matrix& reference) : x(dtype, policy, 3), v(dtype, reference, 1) {}
  Rows x;
  Rows v;
};

// The definition's sums in long double; `size` is what makes the rounding of a gradient: p or r times `factor`.
struct Truth {
  Real divergence = 0;
  std::vector<Real> gradient, size, factor;
};

inline Truth truth(Pair& pair, std::int64_t row, Direction direction, Real beta, Real temperature) {
  const auto classes = static_cast<std::size_t>(pair.x.classes);
  const auto log_softmax = [&](Rows& rows) {
    std::vector<Real> log_p(classes);
    Real sum = 0;
    Real top = -kInf;
    for (std::size_t i = 0; i < classes; ++i) {
      log_p[i] = rows.value(row, static_cast<std::int64_t>(i)) / temperature;
      top = std::max(top, log_p[i]);
    }
    for (const Real value : log_p) sum += std::exp(value - top);
    for (Real& value : log_p) value -= top + std::log(sum);
    return log_p;
  };
  const std::vector<Real> log_p = log_softmax(pair.x), log_r = log_softmax(pair.v);
  Truth out;
  Real of_policy = 0, of_reference = 0;
  std::vector<Real> ratio(classes);
  for (std::size_t i = 0; i < classes; ++i) {
    const Real p = std::exp(log_p[i]), r = std::exp(log_r[i]), log_m = std::log(beta * p + (1 - beta) * r);
    ratio[i] = direction == Direction::jsd ? log_p[i] - log_m : log_p[i] - log_r[i];
    // Each with what falls out of the sum, so that no term is negative.
    of_policy += p > 0 ? p * (ratio[i] + std::expm1(-ratio[i])) : direction == Direction::jsd ? (1 - beta) * r : r;
    const Real other = direction == Direction::jsd ? log_r[i] - log_m : log_r[i] - log_p[i];
    of_reference += r > 0 ? r * (other + std::expm1(-other)) : direction == Direction::jsd ? beta * p : p;
  }
  out.divergence = direction == Direction::policy_ref   ? of_policy
                   : direction == Direction::ref_policy ? of_reference
                                                        : beta * of_policy + (1 - beta) * of_reference;
  for (std::size_t i = 0; i < classes; ++i) {
    const Real p = std::exp(log_p[i]), r = std::exp(log_r[i]);
    const Real share = direction == Direction::jsd ? beta : 1;
    const bool gone = p == 0;
    const Real g = direction == Direction::ref_policy ? p - r : share * p * (ratio[i] - of_policy);
    const Real l = std::abs(log_p[i]) + std::abs(log_r[i]) + of_policy + 1;
    out.factor.push_back(l / temperature);
    out.gradient.push_back(gone ? 0 : g / temperature);
    out.size.push_back(gone ? 0 : std::max(p, direction == Direction::ref_policy ? r : Real{0}) * l / temperature);
  }
  return out;
}

}  // namespace fluxcore::test
