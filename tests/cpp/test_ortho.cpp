#include <cmath>
#include <random>
#include <vector>

#include "doctest.h"
#include "ops/ortho.hpp"

using namespace fluxcore;

namespace {

using Floats = std::vector<float>;
using Real = long double;

Floats normals(std::size_t count, unsigned seed, float scale = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, scale);
  Floats x(count);
  for (float& value : x) value = normal(random);
  return x;
}

std::vector<Real> wide(const Floats& x) { return {x.begin(), x.end()}; }

// d without its part along w, as long as d was unless nearly nothing is left.
std::vector<Real> perpendicular(const std::vector<Real>& d, const std::vector<Real>& w) {
  Real ww = 0;
  Real wd = 0;
  Real dd = 0;
  for (std::size_t i = 0; i < d.size(); ++i) {
    ww += w[i] * w[i];
    wd += w[i] * d[i];
    dd += d[i] * d[i];
  }
  std::vector<Real> left(d.size());
  Real rest = 0;
  for (std::size_t i = 0; i < d.size(); ++i) {
    left[i] = d[i] - (ww > 0 ? wd / ww : 0) * w[i];
    rest += left[i] * left[i];
  }
  const Real scale = rest > 0 && std::sqrt(rest) >= 1e-6L * std::sqrt(dd) ? std::sqrt(dd / rest) : 1;
  for (Real& value : left) value *= scale;
  return left;
}

struct State {
  Floats w, g, m, v;
  explicit State(std::size_t count)
      : w(normals(count, 1)), g(normals(count, 2)), m(normals(count, 3, 0.1F)), v(normals(count, 4, 0.1F)) {
    for (float& value : v) value *= value;
  }
  OrthoTensor tensor() {
    return {.weight = w.data(),
            .gradient = g.data(),
            .exp_avg = m.data(),
            .exp_avg_sq = v.data(),
            .count = static_cast<std::int64_t>(w.size()),
            .correction1 = 0.19,
            .correction2 = 0.0199};
  }
};

// Half a step of rounding, and what double arithmetic adds to it.
bool is_rounded(float found, Real exact) { return std::fabs(found - exact) <= 6.1e-8L * std::fabs(exact) + 1e-11L; }

}  // namespace

TEST_CASE("a step is that of long double, rounded once") {
  const AdamOptions adam = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1};
  for (const Isa isa : available_isas()) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{7}, std::size_t{40'003}}) {
      for (const bool update : {false, true}) {
        CAPTURE(count);
        CAPTURE(update);
        State state(count);
        const State before = state;
        AdamOptions options = adam;
        options.project_update = update;
        ortho_adamw({state.tensor()}, options, 2, isa);
        const std::vector<Real> w = wide(before.w);
        std::vector<Real> g = wide(before.g);
        if (!update) g = perpendicular(g, w);
        std::vector<Real> m(count), v(count), moved(count);
        for (std::size_t i = 0; i < count; ++i) {
          m[i] = before.m[i] + (1.0L - adam.beta1) * (g[i] - before.m[i]);
          v[i] = adam.beta2 * before.v[i] + (1.0L - adam.beta2) * g[i] * g[i];
          moved[i] = m[i] / 0.19L / (std::sqrt(v[i] / 0.0199L) + adam.eps);
        }
        if (update) moved = perpendicular(moved, w);
        for (std::size_t i = 0; i < count; ++i) {
          CHECK(is_rounded(state.m[i], m[i]));
          CHECK(is_rounded(state.v[i], v[i]));
          CHECK(is_rounded(state.w[i], w[i] * (1.0L - adam.lr * adam.weight_decay) - adam.lr * moved[i]));
        }
        CHECK(state.g == before.g);
      }
    }
  }
}

TEST_CASE("threads and the tensors beside it do not change a projection") {
  for (const Isa isa : available_isas()) {
    State alone(50'000);
    State other(333);
    State again = alone;
    orthogonalize({alone.tensor()}, 1, isa);
    orthogonalize({other.tensor(), again.tensor()}, 2, isa);
    CHECK(alone.g == again.g);
    CHECK(alone.w == again.w);
  }
}

TEST_CASE("a gradient that is all but parallel keeps the digits of what is left") {
  for (const Isa isa : available_isas()) {
    State state(30'000);
    const Floats noise = normals(30'000, 9, 1e-5F);
    for (std::size_t i = 0; i < noise.size(); ++i) state.g[i] = 3.0F * state.w[i] + noise[i];
    const std::vector<Real> exact = perpendicular(wide(state.g), wide(state.w));
    orthogonalize({state.tensor()}, 2, isa);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      CHECK(std::fabs(state.g[i] - exact[i]) <= 6.1e-8L * std::fabs(exact[i]) + 5e-8L);
    }
  }
}
