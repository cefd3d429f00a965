#pragma once

#include <cstdint>

#include "ops/cross_entropy_row.hpp"

namespace fluxcore {

// The gradient of one row: a rule for all its elements,
//   chain * (p (a + b z) - factor c_i),  p = e^z / (1 + s)   (StableMax: p = sigma / S, chain = sigma' / sigma),
// and the exact value at the few where the rule would cancel: the target, the argmax and the top k. With
//   g0 = upstream * token_weight / divisor of the loss, g1 that of the z-loss, g2 = the penalty's, coef and mask in it,
// and A the sum of all c_i, less that of the argmax A':
//   classes        g0 ((1 - eps) w_y (p - [i = y]) + eps/V (W p - w_i))
//   probabilities  g0 (A p - c_i), at the argmax g0 (A' p - c_j (1 - p))
//   z-loss         g1 2 lse_square_scale lse p
//   non_max_sum, neg_max_prob    g2 p_max (p - [i = argmax])      neg_entropy  -g2 p (z - t / (1 + s))
//   top_k_mass     g2 p (top-k mass - [i in top k])
class CrossEntropyGradient {
 public:
  // Not for a row that is dead, nor for an upstream of 0.
  CrossEntropyGradient(const CrossEntropyPass& pass, const CrossEntropyRow& target, const CrossEntropyState& state,
                       std::int64_t row, std::int64_t argmax, const std::int32_t* top_index, double upstream);

  void write(void* gradient) const;

 private:
  [[nodiscard]] double z_at(double logit) const;
  [[nodiscard]] double of_lse() const;
  [[nodiscard]] double of_penalty(std::int64_t i, double z, double p, double rest) const;
  [[nodiscard]] double of_loss(std::int64_t i, double p, double rest) const;
  [[nodiscard]] double at(std::int64_t i) const;
  void sweep(void* gradient) const;

  const CrossEntropyPass& pass_;
  const CrossEntropyRow& target_;
  const CrossEntropyState& state_;
  const void* x_;
  std::int64_t argmax_;
  const std::int32_t* top_index_;
  double by_loss_;     // g0
  double by_z_loss_;   // g1
  double by_penalty_;  // g2
  double largest_ = 0.0;
  double n_ = 1.0;         // 1 + s; StableMax: S
  double all_shares_ = 0;  // factor of p in the loss's gradient, over g0
};

}  // namespace fluxcore
