#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "cross_entropy_example.hpp"
#include "doctest.h"

using namespace fluxcore;
using namespace fluxcore::test;

namespace {

using Real = long double;

double epsilon(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return 0x1p-23;
    case DType::bfloat16:
      return 0x1p-7;
    case DType::float16:
      return 0x1p-10;
    case DType::float64:
      break;
  }
  return 0x1p-52;
}

// Loss of a row and its gradient in long double, by the plain definitions; `scale` sums the sizes of their terms.
struct Truth {
  Real loss = 0, loss_scale = 0;
  std::vector<Real> gradient, scale;
};

Truth truth(Example& example, std::int64_t row) {
  const CrossEntropyCall& call = example.call;
  const auto classes = static_cast<std::size_t>(example.x.classes);
  const Real cap = call.logits.transform.softcap, temperature = call.logits.transform.temperature;
  const Real a = example.weighted ? example.token_weight[static_cast<std::size_t>(row)] : 1;
  const Real eps = call.label_smoothing, coef = call.penalty_coef * (example.weighted ? 0.5 : 1);
  std::vector<Real> log_p(classes), p(classes), c(classes), chain(classes);
  Real sum = 0, top = -kInf;
  for (std::size_t i = 0; i < classes; ++i) {
    const Real x = example.x.value(row, static_cast<std::int64_t>(i));
    chain[i] = 1 / temperature;
    if (call.link == Link::stablemax) {
      log_p[i] = x >= 0 ? std::log1p(x) : -std::log1p(-x);
      chain[i] = 1 / (1 + std::abs(x));
    } else {
      log_p[i] = (cap > 0 ? cap * std::tanh(x / cap) : x) / temperature;
      if (cap > 0) chain[i] /= std::cosh(x / cap) * std::cosh(x / cap);
    }
    top = std::max(top, log_p[i]);
    const Real share = call.probabilities != nullptr
                           ? static_cast<Real>(example.probabilities.value(row, static_cast<std::int64_t>(i)))
                           : static_cast<Real>(i == static_cast<std::size_t>(row * 7919 % example.x.classes));
    c[i] = (example.weighted ? example.weight[i] : 1) * ((1 - eps) * share + eps / static_cast<Real>(classes));
  }
  for (const Real x : log_p) sum += std::exp(x - top);
  const Real lse = top + std::log(sum);
  Real entropy = 0, mass = 0;
  for (std::size_t i = 0; i < classes; ++i) {
    log_p[i] -= lse;
    p[i] = std::exp(log_p[i]);
    entropy -= p[i] > 0 ? p[i] * log_p[i] : 0;
    mass += c[i];
  }
  std::vector<std::size_t> order(classes);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](auto i, auto j) { return log_p[i] > log_p[j]; });
  Real in_top = 0;
  for (int k = 0; k < call.logits.top_k; ++k) in_top += p[order[static_cast<std::size_t>(k)]];
  const Real penalties[] = {0, 1 - p[order[0]], entropy, -p[order[0]], 1 - in_top};
  const Real zl = call.lse_square_scale;

  Truth out;
  const Real penalty = coef * penalties[static_cast<int>(call.penalty)];
  out.loss = zl * lse * lse + penalty;
  for (std::size_t i = 0; i < classes; ++i) out.loss -= c[i] == 0 ? 0 : c[i] * log_p[i];
  out.loss *= a;
  out.loss_scale = std::abs(a) * (std::abs(out.loss / a) + 2 * std::abs(penalty) + 2 * zl * std::abs(lse * lse) + mass);
  for (std::size_t i = 0; i < classes; ++i) {
    const bool is_top = i == order[0];
    const bool member =
        std::find(order.begin(), order.begin() + call.logits.top_k, i) != order.begin() + call.logits.top_k;
    const Real terms[] = {0, p[order[0]] * (p[i] - is_top), p[i] > 0 ? -p[i] * (log_p[i] + entropy) : 0,
                          p[order[0]] * (p[i] - is_top), p[i] * (in_top - member)};
    const Real of_penalty = coef * terms[static_cast<int>(call.penalty)];
    const Real g = mass * p[i] - c[i] + 2 * zl * lse * p[i] + of_penalty;
    const Real size = mass * p[i] + c[i] + 2 * zl * std::abs(lse) * p[i] + std::abs(of_penalty) + std::abs(coef) * p[i];
    const Real by = -2 * a * chain[i];
    out.gradient.push_back(g * by);
    out.scale.push_back(std::abs(by) * size * (1 + std::abs(log_p[i])));
  }
  return out;
}

// Every element of loss and gradient, on every instruction set.
void check_against_truth(Example& example) {
  const DType dtype = example.call.logits.dtype;
  const bool wide = dtype == DType::float64;
  const double eps = (wide ? 0x1p-52 : 0x1p-23) * (example.call.logits.transform.softcap > 0 ? 60 : 8);
  const double least = dtype == DType::float16 ? 0x1p-24 : 1e-37;  // what rounds to or from a subnormal
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(isa_name(isa)));
    example.call.logits.isa = isa;
    const Outcome out = run(example);
    for (std::int64_t row = 0; row < example.x.rows; ++row) {
      CAPTURE(row);
      const Truth expected = truth(example, row);
      const double loss = out.loss[static_cast<std::size_t>(row)];
      CHECK(std::abs(loss - static_cast<double>(expected.loss)) <= eps * static_cast<double>(expected.loss_scale));
      std::int64_t wrong = 0;
      for (std::int64_t i = 0; i < example.x.classes; ++i) {
        const auto k = static_cast<std::size_t>(i);
        const auto at = static_cast<std::size_t>(row * example.x.classes + i);
        const auto exact = static_cast<double>(expected.gradient[k]);
        const double limit = eps * static_cast<double>(expected.scale[k]) + epsilon(dtype) * std::abs(exact) + least;
        if (!(std::abs(out.gradient[at] - exact) <= limit)) ++wrong;
        if (!(std::abs(-2 * out.fused[at] - exact) <= limit)) ++wrong;  // made with the loss, for upstream 1
      }
      CHECK(wrong == 0);
    }
  }
}

}  // namespace

TEST_CASE("loss and gradient agree with long double, in every type and on every instruction set") {
  for (const DType dtype : kDTypes) {
    for (const std::int64_t classes : {1, 2, 5, 65, 257, 2049, 4100}) {
      CAPTURE(static_cast<int>(dtype));
      CAPTURE(classes);
      for (const bool probable : {false, true}) {
        for (const Link link : {Link::softmax, Link::stablemax}) {
          Example example(dtype, 3, classes);
          example.call.link = link;
          if (probable) example.use_probabilities();
          check_against_truth(example);
          example.call.label_smoothing = 0.2;
          check_against_truth(example);
          example.weighted = true;
          check_against_truth(example);
        }
      }
    }
  }
}

TEST_CASE("penalties, z-loss, softcap and temperature add up") {
  for (const Penalty penalty :
       {Penalty::non_max_sum, Penalty::neg_entropy, Penalty::neg_max_prob, Penalty::top_k_mass}) {
    for (const bool probable : {false, true}) {
      CAPTURE(static_cast<int>(penalty));
      Example example(DType::float32, 4, 300);
      if (probable) example.use_probabilities();
      example.call.penalty = penalty;
      example.call.penalty_coef = -0.7;
      if (penalty == Penalty::top_k_mass) example.call.logits.top_k = 3;
      check_against_truth(example);
      example.weighted = true;
      example.call.lse_square_scale = 0.01;
      example.call.label_smoothing = 0.1;
      example.call.logits.transform = {.temperature = 1.5, .softcap = 10.0};
      check_against_truth(example);
    }
  }
}

TEST_CASE("StableMax keeps its digits from tiny logits to huge ones") {
  for (const double scale : {1e-8, 1e-3, 1e5, 1e20, 1e35}) {
    CAPTURE(scale);
    Example example(DType::float32, 3, 100, scale);
    example.call.link = Link::stablemax;
    example.call.label_smoothing = 0.5;
    check_against_truth(example);
  }
}
