#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "doctest.h"
#include "kl_div_truth.hpp"
#include "logit_rows.hpp"
#include "ops/kl_div.hpp"
#include "ops/softmax_kernels.hpp"

using namespace fluxcore;
using namespace fluxcore::test;

namespace {

constexpr DType kTypes[] = {DType::float32, DType::bfloat16, DType::float16, DType::float64};
constexpr Direction kDirections[] = {Direction::policy_ref, Direction::ref_policy, Direction::jsd};
constexpr double kBeta = 0.3;

double epsilon(DType dtype) {
  return dtype == DType::float64   ? 0x1p-52
         : dtype == DType::float32 ? 0x1p-23
         : dtype == DType::float16 ? 0x1p-10
                                   : 0x1p-7;
}

struct Outcome {
  std::vector<double> loss, state, gradient;
};

template <class C>
Outcome run_in(Pair& pair, KlDivCall call, double upstream) {
  const auto n = static_cast<std::size_t>(pair.x.n);
  call.x = pair.x.bytes.data();
  call.ref = pair.v.bytes.data();
  call.dtype = pair.x.dtype;
  call.rows = pair.x.n;
  call.classes = pair.x.classes;
  call.row_stride = pair.x.stride;
  call.ref_stride = pair.v.stride;
  const C nan = static_cast<C>(kNan);
  std::vector<C> loss(call.reduction == Reduction::none ? n : 1, nan), state(5 * n, nan), totals(1, nan);
  std::vector<std::byte> gradient(n * static_cast<std::size_t>(call.classes) * dtype_size(call.dtype), std::byte{0xff});
  const C up = static_cast<C>(upstream);
  kl_div_fwd(call, {loss.data(), state.data(), totals.data()});
  kl_div_bwd(call, {.upstream = &up,
                    .upstream_stride = 0,
                    .state = state.data(),
                    .totals = totals.data(),
                    .gradient = gradient.data()});
  Outcome out;
  out.loss.assign(loss.begin(), loss.end());
  out.state.assign(state.begin(), state.end());
  for (std::int64_t i = 0; i < call.rows * call.classes; ++i)
    out.gradient.push_back(pair.x.kernels().read(gradient.data(), i));
  return out;
}

Outcome run(Pair& pair, const KlDivCall& call, double upstream = 1.0) {
  return pair.x.dtype == DType::float64 ? run_in<double>(pair, call, upstream) : run_in<float>(pair, call, upstream);
}

Matrix moved(Matrix rows, double deviation, double offset) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal(offset, deviation);
  for (auto& row : rows) {
    for (double& x : row) x += normal(random);
  }
  return rows;
}

void check_against_truth(DType dtype, const Matrix& policy, const Matrix& reference, double temperature) {
  Pair pair(dtype, policy, reference);
  const double wide = dtype == DType::float64 ? 0x1p-52 : 0x1p-23;
  Real farthest = 0;  // |delta|, whose rounding is that of each log(p/r)
  for (std::int64_t row = 0; row < pair.x.n; ++row) {
    for (std::int64_t i = 0; i < pair.x.classes; ++i) {
      const Real delta = std::abs(Real{pair.x.value(row, i)} - Real{pair.v.value(row, i)}) / temperature;
      if (std::isfinite(delta)) farthest = std::max(farthest, delta);
    }
  }
  const double rounding = wide * static_cast<double>(farthest);
  for (const Direction direction : kDirections) {
    CAPTURE(static_cast<int>(direction));
    std::vector<Truth> truths;
    for (std::int64_t row = 0; row < pair.x.n; ++row) truths.push_back(truth(pair, row, direction, kBeta, temperature));
    for (const Isa isa : available_isas()) {
      CAPTURE(std::string(isa_name(isa)));
      const Outcome out = run(pair, {.direction = direction,
                                     .beta = kBeta,
                                     .reduction = Reduction::none,
                                     .temperature = temperature,
                                     .threads = 2,
                                     .isa = isa});
      for (std::size_t row = 0; row < truths.size(); ++row) {
        CAPTURE(row);
        const double exact = static_cast<double>(truths[row].divergence);
        if (std::isinf(exact)) {
          CHECK(out.loss[row] == kInf);
          continue;
        }
        // The rounding of each log(p/r) by the Cauchy-Schwarz inequality, and that of the sums.
        const double allowed = 32 * wide * exact + 2 * std::sqrt(2 * exact) * rounding + rounding * rounding;
        CHECK(std::abs(out.loss[row] - exact) <= allowed);
        std::int64_t wrong = -1;
        for (std::size_t i = 0; i < truths[row].gradient.size(); ++i) {
          const double expected = static_cast<double>(truths[row].gradient[i]);
          const double got = out.gradient[row * truths[row].gradient.size() + i];
          // A p below e^-88 is 0 in float.
          const double limit = 6 * (wide + rounding) * static_cast<double>(truths[row].size[i]) +
                               0x1p-126 * static_cast<double>(truths[row].factor[i]) +
                               epsilon(dtype) * std::abs(expected) + (dtype == DType::float16 ? 0x1p-24 : 0.0);
          if (!(std::abs(got - expected) <= limit)) wrong = static_cast<std::int64_t>(i);
        }
        CHECK(wrong == -1);
      }
    }
  }
}

}  // namespace

TEST_CASE("divergences and gradients agree with long double, in every type and on every instruction set") {
  for (const DType dtype : kTypes) {
    CAPTURE(static_cast<int>(dtype));
    for (const std::int64_t classes : {1, 2, 5, 65, 1000, 2049, 6500}) {
      CAPTURE(classes);
      const Matrix policy = random_rows(2, classes, 0.0, 3.0, 1);
      check_against_truth(dtype, policy, random_rows(2, classes, 0.0, 3.0, 2), 1.0);
      check_against_truth(dtype, policy, moved(policy, 0.25, 2.0), 0.8);
    }
  }
}

TEST_CASE("rows far apart, of another offset in each part, and with excluded classes") {
  for (const DType dtype : kTypes) {
    CAPTURE(static_cast<int>(dtype));
    for (const std::size_t classes : {40U, 2500U, 9000U}) {
      CAPTURE(classes);
      Matrix policy = random_rows(6, static_cast<std::int64_t>(classes), 0.0, 2.0, 3);
      Matrix reference = moved(policy, 0.1, 0.0);
      policy[0][classes / 2] = 90.0;  // sure, of different classes
      reference[0][classes - 1] = 120.0;
      for (std::size_t i = 0; i < classes / 2; ++i) reference[1][i] += 25.0;  // half a row: no pivot suits both
      for (std::size_t i = 0; i < classes - 3; ++i) policy[2][i] = reference[2][i] = -kInf;
      for (std::size_t i = 0; i < classes / 3; ++i) policy[3][i] = -kInf;  // only here: inf the other way
      for (std::size_t i = classes / 3; i < classes; i += 2) reference[4][i] = -kInf;
      policy[5][0] = reference[5][0] = 70.0;  // sure, of the same class
      check_against_truth(dtype, policy, reference, 1.0);
    }
  }
}

TEST_CASE("rows that are equal up to a constant have no divergence") {
  for (const DType dtype : kTypes) {
    Matrix policy = random_rows(3, 5000, 0.0, 4.0, 4);
    for (auto& row : policy) {
      for (double& x : row) x = std::round(x);
    }
    policy[1][4000] = 60.0;
    Matrix reference = policy;
    for (double& x : reference[2]) x += 64.0;
    Pair pair(dtype, policy, reference);
    for (const Direction direction : kDirections) {
      for (const Isa isa : available_isas()) {
        const Outcome out = run(pair, {.direction = direction, .reduction = Reduction::none, .isa = isa});
        CHECK(std::ranges::all_of(out.loss, [](double x) { return x == 0.0; }));
        CHECK(std::ranges::all_of(out.gradient, [](double x) { return x == 0.0; }));
      }
    }
  }
}

TEST_CASE("rows without a distribution are NaN, and their masked classes still have gradient 0") {
  for (const std::int64_t classes : {7, 5000}) {
    Matrix policy = random_rows(6, classes, 0.0, 1.0, 6), reference = random_rows(6, classes, 0.0, 1.0, 7);
    const auto last = static_cast<std::size_t>(classes - 1);
    std::ranges::fill(policy[0], -kInf);
    std::ranges::fill(reference[1], -kInf);
    policy[2][last] = kNan;
    reference[3][last] = kNan;
    policy[4][1] = kInf;
    reference[5][last] = kInf;
    policy[5][0] = -kInf;
    Pair pair(DType::float32, policy, reference);
    for (const Direction direction : kDirections) {
      for (const Isa isa : available_isas()) {
        const Outcome out = run(pair, {.direction = direction, .reduction = Reduction::none, .isa = isa});
        CHECK(std::ranges::all_of(out.loss, [](double x) { return std::isnan(x); }));
        for (std::int64_t i = 0; i < classes; ++i) CHECK(out.gradient[static_cast<std::size_t>(i)] == 0.0);
        CHECK(out.gradient[static_cast<std::size_t>(5 * classes)] == 0.0);
        CHECK(std::isnan(out.gradient[static_cast<std::size_t>(3 * classes)]));
      }
    }
  }
}

TEST_CASE("weights, reductions, and rows that are not read") {
  Matrix policy = random_rows(4, 300, 0.0, 1.0, 8), reference = random_rows(4, 300, 0.0, 1.0, 9);
  std::ranges::fill(policy[2], kNan);
  Pair pair(DType::float32, policy, reference);
  const std::vector<float> weight = {0.5F, 2.0F, 0.0F, -1.0F};
  KlDivCall call = {.token_weight = weight.data(), .reduction = Reduction::none, .isa = best_isa()};
  const Outcome rows = run(pair, call);
  CHECK(rows.loss[2] == 0.0);
  const double sum = rows.loss[0] + rows.loss[1] + rows.loss[3];
  for (const auto& [reduction, divisor] :
       {std::pair{Reduction::sum, 1.0}, {Reduction::mean, 4.0}, {Reduction::token_mean, 1.5}}) {
    call.reduction = reduction;
    const Outcome out = run(pair, call, 3.0);
    CHECK(out.loss[0] == doctest::Approx(sum / divisor));
    CHECK(out.gradient[10] == doctest::Approx(3.0 * rows.gradient[10] / divisor).epsilon(1e-5));
    CHECK(std::all_of(out.gradient.begin() + 600, out.gradient.begin() + 900, [](double g) { return g == 0.0; }));
  }
  const std::vector<float> none = {1.0F, -1.0F, 0.0F, 0.0F};
  call.token_weight = none.data();
  call.reduction = Reduction::token_mean;
  CHECK(std::isnan(run(pair, call).loss[0]));
}

TEST_CASE("results do not depend on the number of threads") {
  Pair pair(DType::float32, random_rows(67, 3001, 0.0, 3.0, 10), random_rows(67, 3001, 0.0, 3.0, 11));
  for (const Direction direction : kDirections) {
    KlDivCall call = {.direction = direction, .threads = 1, .isa = best_isa()};
    const Outcome one = run(pair, call);
    call.threads = 7;
    const Outcome many = run(pair, call);
    CHECK(one.loss == many.loss);
    CHECK(one.state == many.state);
    CHECK(one.gradient == many.gradient);
  }
}

TEST_CASE("a call that contradicts itself is refused") {
  CHECK(direction_from_name("jsd") == Direction::jsd);
  CHECK_THROWS_WITH_AS(direction_from_name("up"),
                       "`direction` must be one of `policy_ref` `ref_policy` `jsd`, got `up`", std::invalid_argument);
  KlDivCall call = {.classes = 3, .beta = 1.0};
  CHECK_THROWS_WITH_AS(kl_div_fwd(call, {}), "`beta` must be within (0, 1), got 1.000000", std::invalid_argument);
  call = {.classes = 0};
  CHECK_THROWS_AS(kl_div_bwd(call, {}), std::invalid_argument);
  call = {.classes = 3, .temperature = 0.0};
  CHECK_THROWS_AS(kl_div_fwd(call, {}), std::invalid_argument);
}
