#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "doctest.h"
#include "logit_rows.hpp"
#include "ops/softmax_stats.hpp"
#include "softmax_stats_truth.hpp"

using namespace fluxcore;
using namespace fluxcore::test;

namespace {

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
                                 .dtype = x.dtype,
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
  std::vector<std::byte> dx(n * static_cast<std::size_t>(x.classes) * dtype_size(x.dtype), std::byte{0xff});
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
  return x.dtype == DType::float64 ? run_in<double>(x, target, grads, top_k, transform, isa, threads)
                                   : run_in<float>(x, target, grads, top_k, transform, isa, threads);
}

Matrix wide_rows(std::int64_t n, std::int64_t classes, double mean = 0.0) {
  return random_rows(n, classes, mean, 4.0, static_cast<unsigned>(classes));
}

// Rows that are hard each in its way: one-hot, ties, mostly -inf, one class far above, one far below, rising, falling.
Matrix hard_rows(std::int64_t classes) {
  const auto size = static_cast<std::size_t>(classes);
  Matrix rows(8, std::vector<double>(size, 0.0));
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

void check_against_truth(const Format& format, const Matrix& values, const LogitTransform& transform) {
  Rows x(format.dtype, values, 3);
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
      check_against_truth(format, wide_rows(classes > 2049 ? 1 : 3, classes), {});
    }
    check_against_truth(format, wide_rows(3, 1000), {.temperature = 0.7, .softcap = 0.0});
    check_against_truth(format, wide_rows(3, 300), {.temperature = 1.5, .softcap = 10.0});
    if (format.dtype == DType::float32 || format.dtype == DType::float64) {
      check_against_truth(format, wide_rows(3, 257, 1e4), {});
      check_against_truth(format, wide_rows(3, 257, -1e4), {});
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
      auto values = wide_rows(5, classes);
      const auto last = static_cast<std::size_t>(classes - 1);
      std::ranges::fill(values[0], -kInf);
      values[1][last] = values[1][last - 1] = kNan;
      std::ranges::fill(values[2], kNan);
      values[3][1] = values[3][last] = kInf;
      values[4][3] = kNan;
      values[4][0] = kInf;
      Rows x(format.dtype, values, 3);
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
  Rows x(DType::float32, wide_rows(3, 100), 3);
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
  Rows x(DType::float32, wide_rows(67, 3001), 3);
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
