#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "cross_entropy_example.hpp"
#include "doctest.h"

using namespace fluxcore;
using namespace fluxcore::test;

TEST_CASE("a class of weight 0 may be masked, any other makes the smoothed loss infinite") {
  for (const Link link : {Link::softmax, Link::stablemax}) {
    for (const Isa isa : available_isas()) {
      Example example(DType::float32, 2, 101);
      example.call.link = link;
      example.call.logits.isa = isa;
      example.call.label_smoothing = 0.1;
      for (std::int64_t i = 0; i < 101; i += 5) example.x.set(0, i, -kInf);  // the classes of weight 0
      example.target[0] = 1;
      example.weighted = true;
      const Outcome finite = run(example);
      CHECK(std::isfinite(finite.loss[0]));
      for (std::size_t i = 0; i < 101; ++i) {
        CHECK(std::isfinite(finite.gradient[i]));
        CHECK((finite.gradient[i] == 0.0) == (i % 5 == 0));
      }
      example.weighted = false;
      const Outcome infinite = run(example);
      CHECK(infinite.loss[0] == kInf);
      for (std::size_t i = 0; i < 101; i += 5) CHECK(infinite.gradient[i] == 0.0);
    }
  }
}

TEST_CASE("dead rows give 0 unread, and rows without a value give NaN") {
  for (const Link link : {Link::softmax, Link::stablemax}) {
    Example example(DType::float32, 5, 40);
    example.call.link = link;
    example.weighted = true;
    example.target = {-100, 3, 40, 4, 5};
    example.token_weight[1] = 0.0;
    example.x.set(0, 7, kNan);
    example.x.set(1, 7, kNan);
    example.x.set(3, 7, kNan);
    for (std::int64_t i = 0; i < 40; ++i) example.x.set(4, i, -kInf);
    for (const Reduction reduction : {Reduction::none, Reduction::mean}) {
      example.call.reduction = reduction;
      const Outcome out = run(example);
      if (reduction == Reduction::none) {
        for (const auto row : {0U, 1U}) CHECK(out.loss[row] == 0.0);
        for (const auto row : {2U, 3U, 4U}) CHECK(std::isnan(out.loss[row]));
      }
      for (std::size_t i = 0; i < 80; ++i) CHECK((out.gradient[i] == 0.0 && out.fused[i] == 0.0));
      for (std::size_t i = 80; i < 160; ++i) CHECK((std::isnan(out.gradient[i]) && std::isnan(out.fused[i])));
    }
    example.upstream.assign(5, 0.0);
    CHECK(std::ranges::all_of(run(example).gradient, [](double g) { return g == 0.0; }));
  }
}

TEST_CASE("reductions divide by the weights of the rows that count") {
  Example example(DType::float64, 4, 7);
  example.target = {1, -100, 3, 3};
  example.weighted = true;
  example.call.penalty = Penalty::neg_entropy;
  const auto totals = [&](Reduction reduction) {
    example.call.reduction = reduction;
    return run(example).totals;
  };
  const double weights = 0.25 * (0 + 1 + 2 + 3 + 4 + 0 + 1);
  CHECK(totals(Reduction::none) == std::vector<double>{1, 1, 1, weights});
  CHECK(totals(Reduction::sum) == std::vector<double>{1, 1, 1, weights});
  CHECK(totals(Reduction::mean) == std::vector<double>{0.25 + 0.75 + 0.75, 3, 0.5 * (0.5 + 1.0 + 0.5), weights});
  CHECK(totals(Reduction::token_mean) == std::vector<double>{2.0, 2.0, 1.0, weights});
}

TEST_CASE("rows of a larger whole take its divisors as given") {
  Example example(DType::float32, 4, 33);
  example.call.penalty = Penalty::non_max_sum;
  const Outcome rows = run(example);
  example.call.reduction = Reduction::given;
  example.totals = {2.0, 2.0, 2.0, 33.0};
  const Outcome given = run(example);
  CHECK(given.totals == example.totals);
  for (std::size_t row = 0; row < 4; ++row) CHECK(given.loss[row] == doctest::Approx(rows.loss[row] / 2));
  for (std::size_t i = 0; i < 4 * 33; ++i) CHECK(given.fused[i] == doctest::Approx(rows.fused[i] / 2));
}

TEST_CASE("results do not depend on the number of threads") {
  Example example(DType::float32, 67, 1001);
  example.weighted = true;
  example.call.reduction = Reduction::mean;
  example.call.label_smoothing = 0.1;
  example.call.penalty = Penalty::neg_entropy;
  example.call.penalty_coef = 0.3;
  example.call.logits.threads = 1;
  const Outcome one = run(example);
  example.call.logits.threads = 7;
  CHECK(run(example) == one);
}

TEST_CASE("scaling multiplies every element, in every type") {
  for (const DType dtype : kDTypes) {
    for (const Isa isa : available_isas()) {
      const std::int64_t count = 3 * 65536 + 5;  // several grains and a rest
      Matrix values(dtype, 1, count);
      for (std::int64_t i = 0; i < count; ++i) values.set(0, i, static_cast<double>(i % 64));
      scale_in_place(values.at(0), dtype, count, 1.0, 2, isa);
      scale_in_place(values.at(0), dtype, count, -0.5, 2, isa);
      std::int64_t wrong = 0;
      for (std::int64_t i = 0; i < count; ++i) wrong += values.value(0, i) != -0.5 * static_cast<double>(i % 64);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("a call that contradicts itself is refused") {
  Example example(DType::float32, 2, 5);
  example.call.penalty = Penalty::top_k_mass;
  CHECK_THROWS_WITH_AS(run(example), "`top_k` must be >= 1 for the penalty top_k_mass, else 0, got 0",
                       std::invalid_argument);
  example.call.penalty = Penalty::neg_entropy;
  example.call.link = Link::stablemax;
  CHECK_THROWS_AS(run(example), std::invalid_argument);
  example.call.logits.target = nullptr;
  CHECK_THROWS_WITH_AS(run(example), "`target` must be classes or probabilities, got both or neither",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS(link_from_name("logit"), "`link` must be one of `softmax` `stablemax`, got `logit`",
                       std::invalid_argument);
  CHECK(penalty_from_name("") == Penalty::none);
  CHECK(reduction_from_name("token_mean") == Reduction::token_mean);
}
