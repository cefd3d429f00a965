#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "doctest.h"
#include "ops/gae.hpp"

using namespace fluxcore;

namespace {

constexpr double kGamma = 0.98;
constexpr double kLam = 0.95;
constexpr double kRhoClip = 1.2;
constexpr double kCClip = 0.9;

struct Steps {
  Steps(std::int64_t of, std::int64_t T, std::int64_t by) : outer(of), steps(T), inner(by) {
    std::mt19937 random(7);  // NOLINT(cert-msc32-c,cert-msc51-cpp): the same numbers in each run
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < outer * steps * inner; ++i) {
      rewards.push_back(normal(random));
      values.push_back(normal(random));
      dones.push_back(static_cast<std::uint8_t>(random() % 10 == 0));
      mask.push_back(static_cast<std::uint8_t>(random() % 4 != 0));
      ratio.push_back(std::abs(normal(random)));
    }
    for (std::int64_t i = 0; i < outer * inner; ++i) bootstrap.push_back(normal(random));
  }

  [[nodiscard]] std::size_t at(std::int64_t row, std::int64_t t) const {
    return static_cast<std::size_t>((row / inner * steps + t) * inner + row % inner);
  }

  std::int64_t outer, steps, inner;
  std::vector<float> rewards, values, ratio, bootstrap;
  std::vector<std::uint8_t> dones, mask;
};

struct Found {
  std::vector<float> advantages, returns;
};

Found run(const Steps& s, Isa isa, bool masked, bool clipped, int threads) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Found found = {.advantages = std::vector<float>(s.rewards.size(), nan),
                 .returns = std::vector<float>(s.rewards.size(), nan)};
  gae({.rewards = s.rewards.data(),
       .values = s.values.data(),
       .dones = s.dones.data(),
       .bootstrap = s.bootstrap.data(),
       .mask = masked ? s.mask.data() : nullptr,
       .ratio = clipped ? s.ratio.data() : nullptr,
       .outer = s.outer,
       .steps = s.steps,
       .inner = s.inner,
       .gamma = kGamma,
       .lam = kLam,
       .rho_clip = kRhoClip,
       .c_clip = kCClip,
       .threads = threads,
       .isa = isa},
      {.advantages = found.advantages.data(), .returns = found.returns.data()});
  return found;
}

// In double, one row after the other.
std::pair<std::vector<double>, std::vector<double>> truth(const Steps& s, bool masked, bool clipped) {
  std::vector<double> advantages(s.rewards.size(), 0.0), returns(s.rewards.size(), 0.0);
  for (std::int64_t row = 0; row < s.outer * s.inner; ++row) {
    double value = s.bootstrap[static_cast<std::size_t>(row)], advantage = 0.0;
    for (std::int64_t t = s.steps - 1; t >= 0; --t) {
      const std::size_t i = s.at(row, t);
      if (masked && s.mask[i] == 0) continue;
      const double live = s.dones[i] != 0 ? 0.0 : 1.0;
      const double rho = clipped ? std::min<double>(s.ratio[i], kRhoClip) : 1.0;
      const double c = clipped ? std::min<double>(s.ratio[i], kCClip) : 1.0;
      advantage = rho * (s.rewards[i] + kGamma * live * value - s.values[i]) + kGamma * kLam * live * c * advantage;
      value = s.values[i];
      advantages[i] = advantage;
      returns[i] = advantage + value;
    }
  }
  return {advantages, returns};
}

double largest_error(const std::vector<float>& found, const std::vector<double>& exact) {
  double largest = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = std::abs(static_cast<double>(found[i]) - exact[i]);
    largest = error <= largest ? largest : error;  // NaN wins
  }
  return largest;
}

}  // namespace

TEST_CASE("every layout, width and option agrees with a loop in double") {
  const std::int64_t shapes[][3] = {{1, 1, 1}, {37, 33, 1}, {2, 100, 3}, {1, 65, 64}, {3, 40, 83}, {16, 32, 1}};
  for (const auto& shape : shapes) {
    const Steps steps(shape[0], shape[1], shape[2]);
    for (const Isa isa : available_isas()) {
      for (const bool masked : {false, true}) {
        for (const bool clipped : {false, true}) {
          const Found found = run(steps, isa, masked, clipped, 2);
          const auto [advantages, returns] = truth(steps, masked, clipped);
          // Errors of single steps, each a few ulp of numbers below 10, shrink by gamma lam a step.
          CHECK(largest_error(found.advantages, advantages) < 2e-5);
          CHECK(largest_error(found.returns, returns) < 2e-5);
        }
      }
    }
  }
}

TEST_CASE("threads change no bit") {
  const Steps steps(50, 61, 1);
  const Found one = run(steps, best_isa(), true, true, 1);
  const Found three = run(steps, best_isa(), true, true, 3);
  CHECK(one.advantages == three.advantages);
  CHECK(one.returns == three.returns);
}

TEST_CASE("time inside and outside give the same bits") {
  const Steps inside(21, 45, 1);
  Steps outside(1, 45, 21);
  for (std::int64_t row = 0; row < 21; ++row) {
    for (std::int64_t t = 0; t < 45; ++t) {
      const std::size_t to = outside.at(row, t), from = inside.at(row, t);
      outside.rewards[to] = inside.rewards[from];
      outside.values[to] = inside.values[from];
      outside.dones[to] = inside.dones[from];
      outside.mask[to] = inside.mask[from];
      outside.ratio[to] = inside.ratio[from];
    }
  }
  outside.bootstrap = inside.bootstrap;
  for (const Isa isa : available_isas()) {
    const Found a = run(inside, isa, true, true, 1), b = run(outside, isa, true, true, 1);
    for (std::int64_t row = 0; row < 21; ++row) {
      for (std::int64_t t = 0; t < 45; ++t) {
        CHECK(a.advantages[inside.at(row, t)] == b.advantages[outside.at(row, t)]);
        CHECK(a.returns[inside.at(row, t)] == b.returns[outside.at(row, t)]);
      }
    }
  }
}

TEST_CASE("an instruction set that is not here, and a negative size, are refused") {
  CHECK_THROWS_WITH_AS(gae({.outer = -1}, {}), "`outer` must be >= 0, got -1", std::invalid_argument);
}
