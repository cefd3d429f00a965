#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "logit_rows.hpp"

// What softmax_stats of a row is.
namespace fluxcore::test {

// The definitions in long double. `scale` is what an error is measured against: the size of the terms that make a
// value.
struct Truth {
  std::int64_t argmax = 0;
  std::vector<std::int64_t> top;
  Real stats[7], scale[7];
  std::vector<Real> dx, dx_scale;
};

inline Truth truth(Rows& x, std::int64_t row, std::int64_t y, const double* grads, int top_k,
                   const LogitTransform& transform) {
  const auto classes = static_cast<std::size_t>(x.classes);
  const Real cap = transform.softcap, temperature = transform.temperature;
  std::vector<Real> z(classes), chain(classes, 1 / temperature);
  for (std::size_t i = 0; i < classes; ++i) {
    const Real logit = x.value(row, static_cast<std::int64_t>(i));
    z[i] = (cap > 0 ? cap * std::tanh(logit / cap) : logit) / temperature;
    if (cap > 0) chain[i] /= std::cosh(logit / cap) * std::cosh(logit / cap);
  }
  Truth out;
  std::vector<std::int64_t> order(classes);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(
      order, [&](auto i, auto j) { return z[static_cast<std::size_t>(i)] > z[static_cast<std::size_t>(j)]; });
  out.argmax = order[0];
  out.top.assign(order.begin(), order.begin() + top_k);
  const Real m = z[static_cast<std::size_t>(out.argmax)];
  Real s = 0, t = 0, q = 0, inside = 1, outside = 0;
  for (std::size_t k = 1; k < classes; ++k) {
    const Real d = z[static_cast<std::size_t>(order[k])] - m, e = std::exp(d);
    if (e == 0) continue;
    s += e, t += d * e, q += d * d * e;
    (static_cast<int>(k) < top_k ? inside : outside) += e;
  }
  const Real n = 1 + s, log_n = std::log1p(s), mean = t / n, variance = q / n - mean * mean;
  const Real z_y = z[static_cast<std::size_t>(y)] - m;
  const Real stats[7] = {m + log_n, z_y - log_n, log_n - mean, variance, 1 / n, s / n, inside / n};
  const Real scale[7] = {std::abs(m) + log_n, -z_y + log_n, log_n - mean, q / n, 1 / n, s / n, inside / n};
  std::ranges::copy(stats, out.stats);
  std::ranges::copy(scale, out.scale);
  for (std::size_t i = 0; i < classes; ++i) {
    const auto index = static_cast<std::int64_t>(i);
    const Real p = std::exp(z[i] - m) / n, u = p > 0 ? z[i] - m - mean : 0, w = p > 0 ? std::abs(z[i] - m) - mean : 0;
    const Real rest = index == out.argmax ? s / n : 1 - p;
    const bool member = std::ranges::find(out.top, index) != out.top.end();
    const Real of_y = index == y ? rest : -p, of_max = (index == out.argmax ? rest : -p) / n;
    const Real terms[7] = {
        p, of_y, -p * u, p * (u * u + 2 * u - variance), of_max, -of_max, p * (member ? outside : -inside) / n};
    const Real sizes[7] = {
        p, std::abs(of_y), p * w, p * (w * w + 2 * w + q / n), std::abs(of_max), std::abs(of_max), std::abs(terms[6])};
    Real g = 0, size = 0;
    const bool absent = std::isinf(z[i]);  // a logit of -inf has no gradient, even as the target
    for (int o = 0; o < 7 && !absent; ++o) g += grads[o * x.n] * terms[o], size += std::abs(grads[o * x.n]) * sizes[o];
    out.dx.push_back(g * chain[i]);
    out.dx_scale.push_back(absent ? 0 : size * chain[i] * (1 + std::abs(z[i] - m)));  // e^z has relative condition |z|
  }
  return out;
}

}  // namespace fluxcore::test
