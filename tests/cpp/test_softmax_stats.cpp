#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "doctest.h"
#include "ops/softmax_stats.hpp"

using namespace fluxcore;

namespace {

using Real = long double;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr unsigned kAll = (1U << kSoftmaxStatsOutputs) - 1;
enum Stat { lse, logprob, entropy, varentropy, max_prob, one_minus_max_prob, top_k_mass };

// Significand bits, least exponent and greatest finite value of each type.
struct Format {
  DType dtype;
  int bits;
  int min_exponent;
};
const std::vector<Format> kFormats = {
    {DType::float32, 24, -126}, {DType::bfloat16, 8, -126}, {DType::float16, 11, -14}, {DType::float64, 53, -1022}};

double ulp(const Format& format, double x) {
  const int exponent = x == 0 ? format.min_exponent : std::max(std::ilogb(x), format.min_exponent);
  return std::ldexp(1.0, exponent - format.bits + 1);
}

// Rows of numbers that the format holds, through the kernels' own conversions.
struct Rows {
  Rows(const Format& of, const std::vector<std::vector<double>>& rows)
      : format(of),
        n(std::ssize(rows)),
        classes(std::ssize(rows[0])),
        stride(classes + 3),
        bytes(static_cast<std::size_t>(n * stride) * dtype_size(of.dtype)) {
    for (std::int64_t row = 0; row < n; ++row) {
      for (std::int64_t i = 0; i < classes; ++i)
        kernels().write(at(row), i, rows[static_cast<std::size_t>(row)][static_cast<std::size_t>(i)]);
    }
  }
  const SoftmaxKernels& kernels() const { return softmax_kernels(Isa::portable, format.dtype); }
  void* at(std::int64_t row) {
    return bytes.data() + static_cast<std::size_t>(row * stride) * dtype_size(format.dtype);
  }
  double value(std::int64_t row, std::int64_t i) { return kernels().read(at(row), i); }

  Format format;
  std::int64_t n;
  std::int64_t classes;
  std::int64_t stride;
  std::vector<std::byte> bytes;
};

// Results of one call in double.
struct Outcome {
  std::vector<double> stats, state, dx;
  std::vector<std::int64_t> argmax;
  std::vector<std::int32_t> top_index;
  double stat(Stat s, std::int64_t row) const { return stats[static_cast<std::size_t>(s * std::ssize(argmax) + row)]; }
};

template <class C>
Outcome run_in(Rows& x, const std::vector<std::int64_t>& target, const std::vector<double>& grads, int top_k,
               const LogitTransform& transform, Isa isa, int threads) {
  const auto n = static_cast<std::size_t>(x.n);
  const SoftmaxStatsCall call = {.x = x.bytes.data(),
                                 .dtype = x.format.dtype,
                                 .rows = x.n,
                                 .classes = x.classes,
                                 .row_stride = x.stride,
                                 .target = target.data(),
                                 .outputs = kAll,
                                 .top_k = top_k,
                                 .transform = transform,
                                 .threads = threads,
                                 .isa = isa};
  const C nan = static_cast<C>(kNan);
  std::vector<C> stats(7 * n, nan), state(6 * n, nan), g(grads.begin(), grads.end());
  std::vector<std::byte> dx(n * static_cast<std::size_t>(x.classes) * dtype_size(x.format.dtype), std::byte{0xff});
  Outcome out;
  out.argmax.assign(n, -1);
  out.top_index.assign(n * static_cast<std::size_t>(top_k), -1);
  softmax_stats_fwd(call, {stats.data(), out.argmax.data(), state.data(), out.top_index.data()});
  softmax_stats_bwd(call, {g.data(), out.argmax.data(), state.data(), out.top_index.data(), dx.data()});
  out.stats.assign(stats.begin(), stats.end());
  out.state.assign(state.begin(), state.end());
  for (std::int64_t i = 0; i < x.n * x.classes; ++i) out.dx.push_back(x.kernels().read(dx.data(), i));
  return out;
}

Outcome run(Rows& x, const std::vector<std::int64_t>& target, const std::vector<double>& grads, int top_k,
            const LogitTransform& transform, Isa isa, int threads = 2) {
  return x.format.dtype == DType::float64 ? run_in<double>(x, target, grads, top_k, transform, isa, threads)
                                          : run_in<float>(x, target, grads, top_k, transform, isa, threads);
}

// The definitions in long double. `scale` is what an error is measured against: the size of the terms that make a
// value.
struct Truth {
  std::int64_t argmax = 0;
  std::vector<std::int64_t> top;
  Real stats[7], scale[7];
  std::vector<Real> dx, dx_scale;
};

Truth truth(Rows& x, std::int64_t row, std::int64_t y, const double* grads, int top_k,
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

std::vector<std::vector<double>> random_rows(std::int64_t n, std::int64_t classes, double offset) {
  std::mt19937 random(static_cast<unsigned>(classes));
  std::normal_distribution<double> normal(offset, 4.0);
  std::vector<std::vector<double>> rows(static_cast<std::size_t>(n),
                                        std::vector<double>(static_cast<std::size_t>(classes)));
  for (auto& row : rows) std::ranges::generate(row, [&] { return normal(random); });
  return rows;
}

// Rows that are hard each in its way: one-hot, ties, mostly -inf, one class far above, one far below, rising, falling.
std::vector<std::vector<double>> hard_rows(std::int64_t classes) {
  const auto size = static_cast<std::size_t>(classes);
  std::vector<std::vector<double>> rows(8, std::vector<double>(size, 0.0));
  std::ranges::fill(rows[0], -kInf);
  rows[0][size / 2] = 3.0;
  for (std::size_t i = 0; i < size; i += 3) rows[2][i] = 2.0;
  for (std::size_t i = 0; i < size; ++i) {
    if (i % 2 == 1) rows[3][i] = -kInf;
    rows[6][i] = 20.0 * static_cast<double>(i) / static_cast<double>(size);
    rows[7][i] = -rows[6][i];
  }
  rows[4].back() = 30.0;
  rows[5][0] = 60.0;
  return rows;
}

void check_against_truth(const Format& format, const std::vector<std::vector<double>>& values,
                         const LogitTransform& transform) {
  Rows x(format, values);
  const int top_k = static_cast<int>(std::min<std::int64_t>(x.classes, 5));
  std::vector<std::int64_t> target;
  std::vector<double> grads;
  for (std::int64_t row = 0; row < x.n; ++row) target.push_back(row * 7919 % x.classes);
  for (std::int64_t i = 0; i < 7 * x.n; ++i) grads.push_back(0.25 * static_cast<double>(i % 9) - 1.0);
  const bool wide = format.dtype == DType::float64;
  // exp is within 2 ulp, sums come in up to three at once, and a softcap adds its own error to every logit.
  const double eps = (wide ? 0x1p-52 : 0x1p-23) * (transform.softcap > 0 ? 4 * transform.softcap : 6);
  const Format& of_stats = wide ? format : kFormats[0];
  CAPTURE(transform.softcap);
  CAPTURE(values[0][0]);

  std::vector<Truth> truths;
  for (std::int64_t row = 0; row < x.n; ++row) {
    truths.push_back(truth(x, row, target[static_cast<std::size_t>(row)], grads.data() + row, top_k, transform));
  }
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(isa_name(isa)));
    const Outcome out = run(x, target, grads, top_k, transform, isa);
    for (std::int64_t row = 0; row < x.n; ++row) {
      CAPTURE(row);
      const Truth& expected = truths[static_cast<std::size_t>(row)];
      if (transform.softcap == 0) {
        CHECK(out.argmax[static_cast<std::size_t>(row)] == expected.argmax);
        CHECK(std::equal(expected.top.begin(), expected.top.end(), out.top_index.begin() + row * top_k));
      }
      for (int o = 0; o < 7; ++o) {
        CAPTURE(o);
        const auto exact = static_cast<double>(expected.stats[o]);
        const double limit = eps * static_cast<double>(expected.scale[o]) + ulp(of_stats, exact);
        if (std::isinf(exact))
          CHECK(out.stat(static_cast<Stat>(o), row) == exact);
        else
          CHECK(std::abs(out.stat(static_cast<Stat>(o), row) - exact) <= limit);
      }
      std::int64_t wrong = -1;
      for (std::int64_t i = 0; i < x.classes; ++i) {
        const auto exact = static_cast<double>(expected.dx[static_cast<std::size_t>(i)]);
        const double scale = static_cast<double>(expected.dx_scale[static_cast<std::size_t>(i)]);
        const double got = out.dx[static_cast<std::size_t>(row * x.classes + i)];
        if (!(std::abs(got - exact) <= eps * scale + ulp(format, exact))) wrong = i;
      }
      CHECK(wrong == -1);
    }
  }
}

}  // namespace

TEST_CASE("statistics and gradients agree with long double, in every type and on every instruction set") {
  for (const Format& format : kFormats) {
    for (const std::int64_t classes : {1, 2, 5, 65, 257, 1000, 2049, 50257}) {
      CAPTURE(static_cast<int>(format.dtype));
      CAPTURE(classes);
      check_against_truth(format, random_rows(classes > 2049 ? 1 : 3, classes, 0.0), {});
    }
    check_against_truth(format, random_rows(3, 1000, 0.0), {.temperature = 0.7, .softcap = 0.0});
    check_against_truth(format, random_rows(3, 300, 0.0), {.temperature = 1.5, .softcap = 10.0});
    if (format.dtype == DType::float32 || format.dtype == DType::float64) {
      check_against_truth(format, random_rows(3, 257, 1e4), {});
      check_against_truth(format, random_rows(3, 257, -1e4), {});
    }
  }
}

TEST_CASE("one-hot rows, ties, -inf and tails keep their relative accuracy") {
  for (const Format& format : kFormats) {
    for (const std::int64_t classes : {2, 65, 2048, 5000}) {
      CAPTURE(static_cast<int>(format.dtype));
      CAPTURE(classes);
      check_against_truth(format, hard_rows(classes), {});
    }
  }
}

TEST_CASE("rows without a value have the stated results") {
  for (const Format& format : kFormats) {
    for (const std::int64_t classes : {5, 3000}) {
      auto values = random_rows(5, classes, 0.0);
      const auto last = static_cast<std::size_t>(classes - 1);
      std::ranges::fill(values[0], -kInf);
      values[1][last] = values[1][last - 1] = kNan;
      std::ranges::fill(values[2], kNan);
      values[3][1] = values[3][last] = kInf;
      values[4][3] = kNan;
      values[4][0] = kInf;
      Rows x(format, values);
      const std::vector<std::int64_t> target(5, 0);
      const std::vector<double> none(35, 0.0);
      const std::vector<double> ones(35, 1.0);
      for (const Isa isa : available_isas()) {
        const Outcome out = run(x, target, ones, 3, {}, isa);
        CHECK(out.argmax == std::vector<std::int64_t>{0, classes - 2, 0, 1, 3});
        for (std::int64_t row = 0; row < 5; ++row) {
          CHECK((row == 0   ? out.stat(lse, row) == -kInf
                 : row == 3 ? out.stat(lse, row) == kInf
                            : std::isnan(out.stat(lse, row))));
          for (int o = 1; o < 7; ++o) CHECK(std::isnan(out.stat(static_cast<Stat>(o), row)));
          const bool zero = std::ranges::all_of(out.dx.begin() + row * classes, out.dx.begin() + (row + 1) * classes,
                                                [](double g) { return g == 0.0; });
          CHECK(zero == (row == 0));
        }
        CHECK(std::ranges::all_of(out.top_index, [&](auto i) { return i >= 0 && i < classes; }));
        CHECK(std::ranges::all_of(run(x, target, none, 3, {}, isa).dx, [](double g) { return g == 0.0; }));
      }
    }
  }
}

TEST_CASE("a target outside the classes has no logprob and spoils only its own gradient") {
  Rows x(kFormats[0], random_rows(3, 100, 0.0));
  std::vector<double> grads(21, 0.0);
  for (int row = 0; row < 3; ++row) grads[static_cast<std::size_t>(3 + row)] = 1.0;
  for (const Isa isa : available_isas()) {
    const Outcome out = run(x, {5, -100, 100}, grads, 1, {}, isa);
    for (std::int64_t row = 0; row < 3; ++row) {
      CHECK(std::isnan(out.stat(logprob, row)) == (row > 0));
      CHECK(std::isfinite(out.stat(entropy, row)));
      for (std::int64_t i = 0; i < 100; ++i)
        CHECK(std::isnan(out.dx[static_cast<std::size_t>(row * 100 + i)]) == (row > 0));
    }
  }
}

TEST_CASE("results do not depend on the number of threads") {
  Rows x(kFormats[0], random_rows(67, 3001, 0.0));
  const std::vector<std::int64_t> target(67, 9);
  const std::vector<double> grads(7 * 67, 0.5);
  const Outcome one = run(x, target, grads, 4, {}, best_isa(), 1);
  const Outcome many = run(x, target, grads, 4, {}, best_isa(), 7);
  CHECK(one.stats == many.stats);
  CHECK(one.state == many.state);
  CHECK(one.dx == many.dx);
}

TEST_CASE("a call that contradicts itself is refused") {
  SoftmaxStatsCall call = {.x = nullptr, .classes = 3, .outputs = kTopKMass};
  CHECK_THROWS_WITH_AS(softmax_stats_fwd(call, {}), "`top_k` must be >= 1 for top_k_mass, got 0",
                       std::invalid_argument);
  call.top_k = 4;
  CHECK_THROWS_WITH_AS(softmax_stats_fwd(call, {}), "`top_k` must be within [0, min(V, 64)], got 4",
                       std::invalid_argument);
  call.top_k = 2;
  CHECK_NOTHROW(softmax_stats_fwd(call, {}));
  call.classes = 0;
  CHECK_THROWS_AS(softmax_stats_bwd(call, {}), std::invalid_argument);
}
