#pragma once

#include <cstdint>
#include <string_view>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "ops/softmax_stats.hpp"

// Cross entropy of N rows of V logits with z-loss, label smoothing, weights and a sharpness penalty. The formulas are
// those of fluxcore/reference/cross_entropy.py; `wide` is double for double logits, float for all others.
namespace fluxcore {

enum class Link { softmax, stablemax };
// given: rows of a larger whole, whose totals the caller knows.
enum class Reduction { none, mean, sum, token_mean, given };
enum class Penalty { none, non_max_sum, neg_entropy, neg_max_prob, top_k_mass };

// Throw std::invalid_argument that lists the names, for another name. No penalty is the empty name.
Link link_from_name(std::string_view name);
Reduction reduction_from_name(std::string_view name);
Penalty penalty_from_name(std::string_view name);

struct CrossEntropyCall {
  // The logits, and the classes of the rows as its target (none with probabilities); outputs are the statistics wanted,
  // top_k is the penalty's.
  SoftmaxStatsCall logits;
  bool argmax_wanted = false;           // of every row, as a statistic
  const void* probabilities = nullptr;  // [N, V] of x's type, the last dimension contiguous; instead of classes
  std::int64_t probability_stride = 0;  // elements from row to row
  const void* weight = nullptr;         // [V] wide, or none
  const void* token_weight = nullptr;   // [N] wide, or none
  const void* penalty_mask = nullptr;   // [N] wide, or none
  Link link = Link::softmax;
  Reduction reduction = Reduction::mean;
  std::int64_t ignore_index = -100;
  double label_smoothing = 0.0;
  double lse_square_scale = 0.0;
  Penalty penalty = Penalty::none;
  double penalty_coef = 0.0;
};

struct CrossEntropyResults {
  void* loss;               // [N] wide for Reduction::none and given, else one
  void* stats;              // [outputs set, N] wide
  std::int64_t* argmax;     // [N]
  void* state;              // [7, N] wide: m, s, t, x_y, inside, outside, mass_rest (see CrossEntropyState)
  std::int32_t* top_index;  // [N, top_k]
  void* totals;             // [4] wide: divisors of loss, z-loss and penalty, sum of the class weights; given: an input
  void* gradient;           // [N, V] contiguous, of x's type: of the loss by x, and may be x itself; or none
};

// A row whose target is ignore_index, or whose token weight is 0, has loss and gradient 0, and its logits are read only
// for statistics. Results do not depend on the number of threads. Throws std::invalid_argument for a call that
// contradicts itself.
void cross_entropy_fwd(const CrossEntropyCall& call, const CrossEntropyResults& results);

struct CrossEntropyGrads {
  const void* upstream;          // wide, of the loss
  std::int64_t upstream_stride;  // 0: one for all rows, 1: one a row
  const std::int64_t* argmax;    // these four from the forward pass
  const void* state;
  const std::int32_t* top_index;
  const void* totals;
  void* gradient;  // [N, V] contiguous, of x's type; may be x itself
};

// The gradient of sum(upstream * loss) by x. It is 0 at a logit of -inf and in a row whose upstream is 0.
void cross_entropy_bwd(const CrossEntropyCall& call, const CrossEntropyGrads& grads);

// values[0, count) *= scale, where 0 times NaN is 0: nothing comes from rows without an upstream gradient.
void scale_in_place(void* values, DType dtype, std::int64_t count, double scale, int threads, Isa isa);

}  // namespace fluxcore
